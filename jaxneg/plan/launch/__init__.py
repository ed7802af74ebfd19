"""What starts a run on machines that are not here: a description of it, and a recipe of each kind of place.

A recipe is text alone, made of the description by a pure function; the scripts that it holds are the .sh files of this
directory under a head of settings. None of them starts a run again that ended with exit code 2: a person has to mend
something, and one line in its log says what.
"""
