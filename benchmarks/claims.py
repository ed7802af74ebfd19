"""What became of every claim that the four papers make: a row each, from the figures that the benchmarks left.

    .venv/bin/python benchmarks/claims.py

Reads what benchmarks/study.py left under benchmarks/results/study, and time_to_target.json, and writes claims.md. A
verdict is a rule in judging/rules.py, written before the figures that it reads: nothing is judged by hand. Two cells
differ where the 95% interval of their difference lies on one side of 0 both over seeds (of Student's t, cells paired by
seed) and over listeners (bootstrap, each value averaged over seeds); what is no mean over listeners, such as Gini or
epochs, goes by seeds alone. Prints one JSON object with the number of claims by verdict.
"""

import argparse
import collections
import json
import pathlib
from typing import NamedTuple

from judging import rules
from judging.figures import NOT_RUN, Missing, NotConverged

from jaxneg import pages

RESULTS = pathlib.Path(__file__).parent / "results"


class Claim(NamedTuple):
    number: str
    text: str
    paper: str
    published: str
    command: str
    judge: rules.Judge


STUDY = "benchmarks/study.py --only "
CLAIMS = (
    Claim(
        "1",
        "accuracy has a plateau in p_hard; negatives drawn anew each epoch",
        "MuRS'24",
        "plateau after about 0.3",
        STUDY + "p_hard",
        rules.sampler,
    ),
    Claim(
        "2",
        "pair accuracy rises with hard negatives",
        "UMAP'24, MuRS'24",
        "chance 0.5; online +2.4% at p_hard 0.4",
        STUDY + "p_hard",
        rules.accuracy,
    ),
    Claim(
        "2b",
        "a week online against collaborative filtering without negatives",
        "MuRS'24",
        "completed plays +0.8%, thumb-up rate +2.4%, Gini lower",
        STUDY + "ab",
        rules.online,
    ),
    Claim(
        "3",
        "random items are told apart almost always",
        "MuRS'24",
        "above 0.99",
        STUDY + "p_hard",
        rules.against_random,
    ),
    Claim("4", "Gini has a minimum in p_hard", "MuRS'24", "at 0.2 to 0.6", STUDY + "p_hard", rules.diversity),
    Claim(
        "5",
        "both MRRs fall with p_hard, that of disliked songs more",
        "MuRS'24",
        "signs and order",
        STUDY + "p_hard",
        rules.ranks,
    ),
    Claim(
        "6",
        "fewer epochs to convergence",
        "MuRS'24, UMAP'24",
        "-30% at 0.4; about -60% true against random",
        STUDY + "p_hard",
        rules.epochs,
    ),
    Claim(
        "6b",
        "the headline: at least 60% fewer epochs at equal or better accuracy",
        "UMAP'24",
        "-60% and +6%",
        STUDY + "p_hard negatives",
        rules.headline,
    ),
    Claim(
        "6c",
        "the same on real logs, true against random negatives",
        "UMAP'24",
        "-60% and +6%",
        "benchmarks/time_to_target.py",
        rules.on_real_logs,
    ),
    Claim(
        "7",
        "accuracy rises slightly with the share of positives",
        "UMAP'24, MuRS'24",
        "near flat, slight rise",
        STUDY + "p_hard",
        rules.bands,
    ),
    Claim(
        "8",
        "negatives and skips as inputs",
        "UMAP'24",
        "accuracy slightly, coverage considerably up",
        STUDY + "p_hard negatives",
        rules.inputs,
    ),
    Claim(
        "9",
        "true negatives as targets, and most of the gain is theirs",
        "UMAP'24",
        "about +6%",
        STUDY + "p_hard negatives",
        rules.targets,
    ),
    Claim(
        "10",
        "hardest of N random rises, then falls, below true negatives",
        "UMAP'24",
        "shape",
        STUDY + "p_hard hardest",
        rules.hardest,
    ),
    Claim(
        "11",
        "skips are like thumbs-down in the model",
        "UMAP'24",
        "cos(skip, down) .82, cos(skip, up) .16",
        STUDY + "p_hard",
        rules.cosines,
    ),
    Claim(
        "12",
        "station and track attributes as inputs help",
        "RecSys'23, MuRS'24",
        "no figure found",
        STUDY + "objectives",
        rules.context,
    ),
    Claim(
        "13",
        "cloze training with BCE does as well as next-event training",
        "UMAP'24",
        "no figure",
        STUDY + "objectives",
        rules.cloze,
    ),
    Claim(
        "14",
        "softmax over batch targets and 1000; HR@1 is as high as it is for want of candidates",
        "MuRS'23, RecSys'24",
        ".28 to .41 on MSSD",
        STUDY + "contrastive",
        rules.softmax,
    ),
    Claim(
        "15",
        "skip InfoNCE, causal",
        "MuRS'23",
        "HR@1 .2821 to .3049 / .3073 (+8.1% / +8.9%)",
        STUDY + "contrastive",
        rules.causal,
    ),
    Claim(
        "15b",
        "the same on real songs in their order, 5 people",
        "MuRS'23",
        "HR@1 .2821 to .3049 (+8.1%)",
        STUDY + "spotify",
        rules.on_real_songs,
    ),
    Claim(
        "16",
        "skip InfoNCE, bidirectional",
        "MuRS'23",
        "HR@1 .1945 to .2101 / .2339 (+8.0% / +20.3%)",
        STUDY + "contrastive encoders",
        rules.bidirectional,
    ),
    Claim(
        "17",
        "four architectures gain",
        "RecSys'24",
        "HR@1 SASRec .377 to .410, BERT4Rec .204 to .355, GRU4Rec .210 to .235, Caser .223 to .251",
        STUDY + "contrastive encoders",
        rules.architectures,
    ),
    Claim(
        "18",
        "the gain shrinks with k",
        "MuRS'23, RecSys'24",
        "SASRec +9% at 1, +1% at 20",
        STUDY + "contrastive",
        rules.shrinks,
    ),
    Claim(
        "19",
        "the gain grows with the share of skips",
        "RecSys'24",
        "direction",
        STUDY + "contrastive term",
        rules.skip_share,
    ),
    Claim(
        "20",
        "skipped songs rank lower",
        "RecSys'24",
        "SASRec -1%, -6%, 0%; BERT4Rec +13%, 0%, -15% (of a faulty metric)",
        STUDY + "contrastive encoders",
        rules.down_ranking,
    ),
    Claim(
        "21",
        "the term's weight has an optimum",
        "authors' later notes",
        "best at .75, +0.4 points of HR@1",
        STUDY + "contrastive term",
        rules.weights,
    ),
    Claim(
        "21b",
        "what the pairing fault of the released code does",
        "reading of the released code",
        "a right pairing should do better",
        STUDY + "contrastive",
        rules.pairing,
    ),
    Claim(
        "22",
        "gBCE on MovieLens-1M",
        "gSASRec",
        "NDCG@10 .1726, SASRec .1259",
        "tests/benchmarks/test_ml1m.py",
        rules.calibration,
    ),
    Claim(
        "23",
        "the top 100 of shared negatives",
        "TRON",
        "+18.14% clicks online",
        STUDY + "objectives",
        rules.tron,
    ),
    Claim(
        "24",
        "not-to-recommend answers a dislike",
        "Wang et al., RecSys'23",
        "similar items -60.8% / -64.1%",
        STUDY + "objectives",
        rules.responsiveness,
    ),
    Claim(
        "25", "two encoders, PNFRec", "Ivanova et al., RecSys'25", "ML-1M HR@10 .1716", "", rules.not_built
    ),
)


def write(results: pathlib.Path, out: pathlib.Path) -> dict[str, int]:
    """Writes claims.md from what stands under ``results``; returns how many claims have which verdict."""
    rows, count = [], collections.Counter()
    for claim in CLAIMS:
        try:
            found, said = claim.judge(results)
        except NotConverged as unknown:
            found, said = f"cannot be said: {unknown}", "open"
        except Missing as missing:
            found, said = f"needs {missing}", NOT_RUN
        count[said] += 1
        command = f"`{claim.command}`" if claim.command else ""
        rows.append([claim.number, claim.text, claim.paper, claim.published, found, f"**{said}**", command])
    head = ["#", "claim", "paper", "published", "found", "verdict", "command"]
    listed = pages.table(head, rows, numbers=False)
    counted = ", ".join(f"{n} {said}" for said, n in count.most_common())
    out.write_text(f"# What became of the papers' claims\n\n{HEAD}\n\n{counted}.\n\n{listed}\n")
    return dict(count)


HEAD = (
    "Written by `.venv/bin/python benchmarks/claims.py` from what `benchmarks/study.py` left. Verdicts are rules in "
    "`benchmarks/judging/rules.py`, written before the figures that they read. Listeners are simulated, "
    "[like people](simulator.md) in how they listen: a direction counts and a size does not. Figures are means over 3 "
    "seeds ± standard deviation. Brackets hold the outer ends of two 95% intervals of a difference, over seeds "
    "(Student's t, cells paired by seed) and over listeners (bootstrap); two cells differ where both lie on one side "
    "of 0. Gini, epochs and cosines go by seeds alone. What is not seen may still lie within its brackets. A claim on "
    "HR@1 cannot be tested where the brackets hold both 0 and what was published, nor where, without the term, it is "
    "not above popularity in the station by as much as the term is said to add."
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    print(json.dumps({"benchmark": "claims", "claims": write(args.results, args.results / "claims.md")}))


if __name__ == "__main__":
    main()
