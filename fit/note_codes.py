"""What every note means: what was seen, why it matters, what to do, by its code.

`isoflop explain CODE` prints an entry and `docs/notes.md` lists them all. A test holds the codes
here against those that the code can give. `QUESTIONS` are what no fit answers, and what would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fit.errors import QueryError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a note says, at length: what was seen, why it matters, what to do."""

    about: str
    """Part under which it is listed, a key of `PARTS`."""
    seen: str
    why: str
    todo: str


PARTS: Mapping[str, str] = MappingProxyType(
    {
        "table": "The table of runs",
        "law": "Whether the runs determine the law",
        "residuals": "Whether the law describes the runs",
        "training": "How the runs were trained",
        "answer": "An answer",
        "cost": "Hours, money, memory and serving",
        "compare": "A comparison, and runs to make next",
        "question": "Questions that no fit answers",
    }
)
"""Parts of the list, with their headings."""
INTRODUCTION = (
    "Notes stand under a fit, an answer, a comparison and a plan, with their code at the end: "
    "`[extrapolates]`. `isoflop explain extrapolates` prints its entry here. `info` leaves the "
    "verdict, `warning` makes it `careful`, `serious` makes it `refuse`. Under an answer the three "
    "most important notes are printed; `--notes` prints all, and JSON has them always.\n\n"
    "This page is written from `fit/note_codes.py`: `python -m fit.note_codes > docs/notes.md`."
)


def page() -> str:
    """The page `docs/notes.md`."""
    lines = ["# Notes", "", INTRODUCTION]
    for about, heading in PARTS.items():
        lines += ["", f"## {heading}"]
        for code, entry in {**NOTES, **QUESTIONS}.items():
            if entry.about == about:
                lines += ["", f"### `{code}`", "", f"- **Seen**: {entry.seen}"]
                lines += [f"- **Why**: {entry.why}", f"- **Do**: {entry.todo}"]
    return "\n".join(lines) + "\n"


def _part(about: str, rows: Mapping[str, tuple[str, str, str]]) -> dict[str, Explanation]:
    """Explanations of one part, from code -> what was seen, why it matters, what to do."""
    return {
        code: Explanation(about=about, seen=seen, why=why, todo=todo)
        for code, (seen, why, todo) in rows.items()
    }


_TABLE = {
    "columns": (
        "A column was read under another name, converted, or computed from others.",
        "A wrong column gives a good-looking law of something else.",
        "Read the sentence; name columns and units yourself where it is wrong: --column, --unit.",
    ),
    "dropped": (
        "Some runs were left out: failed, diverged, without a loss, or outside --where.",
        "The law holds for the runs that are left. Large runs that failed bend it most.",
        "Look at them with isoflop runs RUNS, and repeat those that matter.",
    ),
    "thinned": (
        "The table has more rows than are fitted; they were drawn evenly over compute.",
        "With very many rows intervals become narrower than any law is true to.",
        "Nothing, or choose the rows yourself: --where.",
    ),
    "copies": (
        "Rows repeat the size, length and loss of another row.",
        "One run counted twice makes intervals too narrow.",
        "Remove the copies, or say which rows belong together: --cluster.",
    ),
    "mixed_data": (
        "The runs have different data, tokenizers or held-out sets.",
        "Their losses lie on different laws, and a law through all of them is of none.",
        "Fit them one at a time: --where 'data.name == \"...\"'. To compare them: isoflop compare.",
    ),
    "units": (
        "Params, tokens or FLOP are not raw counts, or rows are in different units.",
        "N* and D* come out wrong by the same factor.",
        "Say the unit: --unit params=M, or correct the column.",
    ),
    "loss_units": (
        "The losses look like bits, perplexities or losses per byte.",
        "E and every forecast are in that unit, and limits by the loss mean nothing.",
        "Say the unit: --unit loss=bits, bpb, ppl, or loss=nats if they are nats.",
    ),
    "rising_loss": (
        "The loss rises with size, or with length, where the other count is fixed.",
        "No law of falling losses describes such runs.",
        "Look for a wrong column or sign, and for large runs that are badly tuned.",
    ),
    "trajectory": (
        "Rows look like checkpoints of one run, and count as independent.",
        "They share that run's errors, so the intervals are too narrow.",
        "Say which rows belong together: --cluster run. Leave unfinished checkpoints out.",
    ),
}
_LAW = {
    "ill_conditioned": (
        "The condition number is high: very different parameters fit the runs almost alike.",
        "E, A, B and the exponents, and with them N*, are then not known. Healthy grids have "
        "40-160; above 1000 N* is refused.",
        "Add runs that vary N at fixed D and D at fixed N, over a wider range: isoflop suggest.",
    ),
    "few_params": (
        "The runs have fewer than three sizes.",
        "A term and its exponent need at least three.",
        "Add sizes: isoflop suggest, or a ladder in the sweep.",
    ),
    "few_tokens": (
        "The runs have fewer than three lengths.",
        "A term and its exponent need at least three.",
        "Add lengths; branches of one trunk are cheap: train.tokens='[1e6,2e6,4e6]'.",
    ),
    "constant_ratio": (
        "Tokens per parameter are the same in every run.",
        "The effects of N and D cannot be distinguished, so no split can be computed.",
        "Vary one at a fixed value of the other.",
    ),
    "one_budget": (
        "All runs spent the same compute.",
        "The best size of that budget is known, and not how the loss falls with compute.",
        "Add two budgets, a factor of three apart each.",
    ),
    "at_bound": (
        "A parameter lies on its bound, or its term has vanished.",
        "The runs do not determine it, and what the law says far from them is arbitrary.",
        "Widen the range of params or tokens.",
    ),
    "several_basins": (
        "Several different sets of parameters fit within 5% of the best.",
        "Single parameters are not determined, while the loss near the runs is.",
        "Rely on losses inside the runs. For N*, add runs off the present grid.",
    ),
    "flat_ridge": (
        "Along a line of parameters the objective hardly changes.",
        "The parameters on that line are not determined, whatever value is shown.",
        "Rely on predictions near the runs, or choose a law with fewer parameters.",
    ),
    "not_determined": (
        "The interval of a parameter is open at both ends.",
        "If it is the exponent a, the split of a budget is not known.",
        "Add runs of other sizes and lengths, over a wider range.",
    ),
    "fit_status": (
        "The search for the law's parameters ended without converging.",
        "The parameters may not be the best ones.",
        "Read the fit's other notes: there is mostly one that says why.",
    ),
    "one_cluster": (
        "All runs belong to one trajectory, or to one value of --cluster.",
        "Their common error cannot be seen, so no interval can be given.",
        "Add other sizes or seeds, or say which rows belong together: --cluster.",
    ),
    "few_clusters": (
        "The intervals rest on fewer than eight independent trajectories.",
        "They are true, and wide.",
        "Add sizes or seeds.",
    ),
    "e_at_zero": (
        "The fitted irreducible loss E is zero.",
        "The runs do not show where the loss ends, so losses far beyond come out too low.",
        "Train longer runs of the larger models.",
    ),
    "e_not_needed": (
        "A law without E fits as well.",
        "The value of E rests on the form of the law, not on the runs.",
        "Longer runs of larger models pin it down. Distrust losses far beyond the runs.",
    ),
    "local_exponent": (
        "This law has no one exponent: a and b change with the budget.",
        "The printed ones hold at the largest budget fitted.",
        "Nothing. Ask the budget itself: isoflop query.",
    ),
    "simpler_law": (
        "A parameter's interval includes the value at which a simpler law results.",
        "These runs do not need the larger law.",
        "Fit the simpler one, or add runs that would tell them apart.",
    ),
    "simpler_law_excluded": (
        "A parameter's interval excludes the value at which a simpler law results.",
        "The simpler law is not what these runs follow, however well it fits.",
        "Keep the larger law.",
    ),
    "prior_recipe": (
        "The earlier fit given as --prior is of runs with another recipe.",
        "On public sweeps such priors made forecasts worse.",
        "Leave it out.",
    ),
}
_RESIDUALS = {
    "misfit": (
        "Fitted to parts of the range, the law's terms differ by more than noise allows.",
        "The law is only nearly true here. Its effect is added to the intervals where it can be "
        "estimated.",
        "Fit a narrower range and compare (--where), and run a budget in between first.",
    ),
    "lack_of_fit": (
        "Seeds of one setting agree better with each other than with the law.",
        "The loss surface is not exactly this law.",
        "Fit a narrower range and compare: --where.",
    ),
    "noise": (
        "Runs lie farther off the law than seeds of one setting differ.",
        "Something other than N and D changes the loss, or some runs are wrong.",
        "Look at the largest residuals, and whether the runs are of one kind: --where.",
    ),
    "outlier": (
        "One run lies far off the law.",
        "The loss function limits its weight, yet it may show a failed run or a wrong row.",
        "Look at its loss curve, or run it again.",
    ),
    "outliers": (
        "More runs lie far off the law than are listed.",
        "They are perhaps of another kind than the rest.",
        "Look for what they have in common: isoflop runs RUNS --csv runs.csv.",
    ),
    "trend": (
        "Residuals bend with N, D, C or D/N.",
        "The runs do not exactly follow the law over this range.",
        "Fit a narrower range and compare: --where.",
    ),
    "trend_shape": (
        "Residuals bend with the aspect ratio, width over depth.",
        "The loss depends on the shape too, so the law mixes shapes.",
        "Fit one aspect ratio at a time: --where.",
    ),
    "trend_tuning": (
        "Residuals bend with the learning rate or the batch.",
        "The loss depends on the tuning too, and the tuning goes with the size.",
        "Keep the best run of each size and length, or fit one rule at a time: --where.",
    ),
    "interaction": (
        "Larger models gain more, or less, from tokens than a sum of two power laws allows.",
        "No single curve N* follows from these runs.",
        "Train longer, or larger models, until the note goes away.",
    ),
    "holdout": (
        "Fitted without the largest budget, the law misses that budget by more than 2%.",
        "Beyond the runs it will miss by at least as much.",
        "Do not rely on it far beyond the runs; add a budget in between.",
    ),
    "one_sided": (
        "Each of the last budgets, predicted from the smaller ones, errs to the same side.",
        "Losses beyond the runs may be off to that side.",
        "Fit without the smallest runs and compare: --where.",
    ),
    "disagreement": (
        "Approach 1 or 2 gives another exponent a than the law.",
        "One of them is misled, by its few points or by the law's form.",
        "Read both before spending; the report shows the curves.",
    ),
    "influence": (
        "One run decides N* far beyond the runs.",
        "If that run is wrong, so is the answer.",
        "Repeat it with another seed: the cheapest insurance there is.",
    ),
    "short_runs": (
        "Without the shortest runs the forecast moves by more than twice its half-width.",
        "They are perhaps still in their first phase of learning, which follows another law.",
        "Train longer, or leave the shortest runs out: --where 'tokens > ...'.",
    ),
}
_TRAINING = {
    "phase": (
        "Runs in which an event of the schedule happened lie off the others.",
        "The event, not N or D, explains part of the loss, and it goes with the length.",
        "Change the recipe as the note says, or leave such runs out.",
    ),
    "collapse": (
        "Normalised training curves of different sizes do not fall on one curve.",
        "The recipe does not act alike at every size.",
        "Scan the learning rate at two sizes: python -m sweep -m +experiment=lr",
    ),
    "undercooled": (
        "The loss was still falling with the rate at the end, or the run is hardly past its start.",
        "Such runs are worse than their N and D allow, mostly the short ones.",
        "Cool down over a larger share (train.cooldown), shorten the warm-up, or train longer.",
    ),
    "tuning": (
        "The scans of a setting give other exponents than the rule that the runs used.",
        "Runs at the ends of the grid are mistuned, which bends the law.",
        "Change the rule's exponents; isoflop tuning RUNS shows the cost beyond the scans.",
    ),
}
_ANSWER = {
    "preset": (
        "The answer comes from a published law.",
        "It holds for its own data, tokenizer and way of counting, and mostly has no intervals.",
        "Use it to plan a sweep of your own, not to spend by.",
    ),
    "track_record": (
        "Forecasts of real sweeps that reached as far have been counted.",
        "The share that held is what to expect of this one.",
        "Nothing.",
    ),
    "extrapolates": (
        "The budget lies more than ten times beyond the largest one fitted.",
        "The law may not hold out there, whatever its interval says.",
        "Run a budget in between and fit again.",
    ),
    "extrapolates_far": (
        "Budget, N, D or D/N lies more than a thousand times outside those of the runs.",
        "Nothing is known of the error there, so nothing is answered.",
        "Run something in between first, or ask a law whose runs reach further: isoflop laws.",
    ),
    "below_range": (
        "The budget lies below the smallest one fitted.",
        "Laws bend among tiny models.",
        "Add smaller runs, or simply train it.",
    ),
    "ratio_outside": (
        "The answer's tokens per parameter lie outside those of the runs.",
        "The law was never seen at such a ratio.",
        "Add runs at that ratio: isoflop suggest --ratio.",
    ),
    "below_entropy": (
        "The forecast loss is below the known entropy of the data.",
        "No model reaches such a loss: the runs say too little of E.",
        "Tell the fit: isoflop fit --entropy known.",
    ),
    "wide_interval": (
        "The interval of the loss is wider than 3% either way.",
        "The answer is known only roughly.",
        "Add runs of larger budgets: isoflop suggest.",
    ),
    "repeats": (
        "The answer trains on more tokens than there are unique ones.",
        "Up to about 4 epochs repeats are nearly as good as fresh tokens; past 16 they are worth "
        "little.",
        "Say how many there are, so that the law counts them: --unique-tokens. The answer then "
        "says where more compute stops paying.",
    ),
    "where_to_stop": (
        "From some budget on repeats gain less than a fifth of what fresh tokens would.",
        "More compute buys nothing worth having: the data set is used up.",
        "Stop there, or get more unique tokens. A larger model does not help either.",
    ),
    "coarse_ladder": (
        "The nearest shape of the ladder lies outside the sizes that are as good as the best.",
        "Launching it costs more loss than one run's noise.",
        "Nothing, or add a shape to the ladder.",
    ),
    "no_shape": (
        "No shape of the ladder near this size is within the limits.",
        "Nothing can be launched.",
        "Widen a limit.",
    ),
}
_COST = {
    "mfu_fitted": (
        "Hours and money use the utilisation of the largest fitted runs.",
        "Another size reaches another utilisation.",
        "Give the one of such a run: --mfu.",
    ),
    "mfu_assumed": (
        "No utilisation was given or measured on such a device, and 0.4 is assumed.",
        "Hours and money go as 1 / MFU: at 0.2 they double.",
        "Measure yours and give it: --mfu 38%.",
    ),
    "price_assumed": (
        "No price was given, and a provider's price of a past day is taken.",
        "Prices differ by factors between providers, and a budget in dollars goes as 1 / price.",
        "Give yours: --price 2.50.",
    ),
    "memory": (
        "The memory limit counts the weights alone.",
        "A cache of keys and values, activations and the runtime come on top.",
        "Leave room for them. In int8 or int4 it holds 2 or 4 times as many: --bytes-per-param.",
    ),
    "serving": (
        "Served tokens are counted as forward passes at the utilisation of training.",
        "Decoding one token after the other reaches far less, so serving costs more than shown.",
        "Give the utilisation that your serving reaches, or more tokens.",
    ),
}
_COMPARE = {
    "unpaired": (
        "The two fits cannot be repeated from the runs that they store, so runs are not paired.",
        "Where both share runs the intervals are too wide.",
        "Fit both again with this version.",
    ),
    "per_byte": (
        "Bits per byte are compared, since the tokenizers differ.",
        "That has a meaning only on the same held-out text.",
        "Make sure that it was: --heldout names the set of a fit.",
    ),
    "data_unknown": (
        "It is not known whether both laws were fitted on the same data and tokenizer.",
        "Nats per token of different ones cannot be compared.",
        "Fit both on runs that record their data, or on a common held-out set.",
    ),
    "other_data": (
        "The two laws were fitted on different data or tokenizers.",
        "Their losses measure different things, and a multiplier means little.",
        "Measure both on one held-out set in bits per byte: isoflop explain which_data",
    ),
    "flops_unknown": (
        "How a table's FLOP were counted is not known.",
        "Different counts shift a multiplier.",
        "Fit both with one count: isoflop fit RUNS --flops 6nd",
    ),
    "other_flops": (
        "The two laws count FLOP in different ways.",
        "The multiplier measures this difference, unless the note says both are counted alike.",
        "Fit both with one count: isoflop fit RUNS --flops 6nd",
    ),
    "range_unknown": (
        "The compute of one law's runs is not known.",
        "The ranges may not overlap, and every row may extrapolate.",
        "Compare fits of your own runs.",
    ),
    "no_overlap": (
        "No budget lies within the runs of both laws.",
        "Every row extrapolates one of them.",
        "Run both at a common budget.",
    ),
    "law_in_doubt": (
        "The fit that runs are chosen for has notes that put its law in doubt.",
        "The expected intervals hold if the law does.",
        "Read the fit's notes first.",
    ),
}
_QUESTIONS = {
    "which_data": (
        "A fit describes runs on one data set with one tokenizer.",
        "Its loss is in nats per token of that set: a lower one may only mean easier text, or "
        "shorter tokens. Which of two data sets is better is no question to either fit.",
        "Measure every run of both on one text that neither trained on (data.also_heldout="
        "[common.txt] in sweeps), in bits per byte: nats per token / ln 2 / bytes per token of "
        "that text. With that column, bpb: isoflop fit a.csv --column loss=bpb --unit loss=bpb; "
        "the same for b.csv; isoflop compare reports/a reports/b --flops 1e21.",
    ),
}
NOTES: Mapping[str, Explanation] = MappingProxyType(
    {
        **_part("table", _TABLE),
        **_part("law", _LAW),
        **_part("residuals", _RESIDUALS),
        **_part("training", _TRAINING),
        **_part("answer", _ANSWER),
        **_part("cost", _COST),
        **_part("compare", _COMPARE),
    }
)
"""Every note by its code."""
QUESTIONS: Mapping[str, Explanation] = MappingProxyType(_part("question", _QUESTIONS))
"""What a fit cannot answer, by name."""


def explanation_document(name: str | None) -> dict[str, Any]:
    """The document `isoflop.notes/1`: one note, or all and the questions.

    Raises:
        QueryError: There is no such note.
    """
    rows = {**NOTES, **QUESTIONS} if name is None else dict([explanation(name)])
    notes = [{"code": code, **dataclasses.asdict(entry)} for code, entry in rows.items()]
    return {"schema": "isoflop.notes/1", "notes": notes}


def explanation(name: str) -> tuple[str, Explanation]:
    """A code and its entry; the name in any case, in brackets, with hyphens or underscores.

    Raises:
        QueryError: There is none.
    """
    from difflib import get_close_matches

    code = name.strip(" []").lower().replace("-", "_")
    known = {**NOTES, **QUESTIONS}
    if code in known:
        return code, known[code]
    near = get_close_matches(code, known, n=3) or ["extrapolates"]
    raise QueryError(
        f"there is no note '{name}'; near it are {', '.join(near)}. All of them: isoflop explain"
    )


if __name__ == "__main__":
    print(page(), end="")
