from tensorboardX.proto.summary_pb2 import Summary

class Event:
    def __init__(self, *, step: int, wall_time: float, summary: Summary) -> None: ...
