"""Model cards: what a model is, what it was measured on, and what it must not be used for."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from echo_models.manifest import Calibration, Interval
from echo_models.training import Trained

_PURPOSES: Final = {
    "fov": "outlines the field of view of an echocardiography frame",
    "view": "names the view of a frame masked by its field of view, one of fifteen",
    "lv": "outlines the left ventricle (epicardium) in an apical four-chamber frame",
    "lvh": "estimates the probability of left ventricular hypertrophy from an apical four-chamber frame",
}

_FAILURES: Final = {
    "fov": "Dual and volumetric modes; sectors as dark as their surroundings.",
    "view": (
        "It knows fifteen views and nothing else: a frame that is no transthoracic view is still given one; "
        "what a calibration (below, where there is one) adds is whether the frame is like any of them. "
        "Apical four- and five-chamber views are the likeliest to be taken for each other."
    ),
    "lv": "Whole walls missing; zooms that cut the ventricle; dual mode with the ventricle on the right.",
    "lvh": (
        "It sees one frame and no scale in millimetres. The phantom's hypertrophy is thicker walls and "
        "nothing else: real hypertrophy comes with other signs, and real walls are thick for other reasons."
    ),
}


_MASKED: Final = {
    "none": "as they are",
    "fov": "masked by the field of view",
    "lv": "masked by the left ventricle",
}

_CARD: Final = """\
# {task} {version}

**Research use only: not for clinical use, not a medical device. {warning}**

This model {purpose}.

## Method

Madani et al., "Deep echocardiography", npj Digital Medicine 1:59 (2018); preset `{preset}` of echobeam.
What differs from the paper stands, with its reasons, in `echo_models/networks.py`,
`echo_models/training.py` and `echo_models/augment.py`. Frames are grey, sampled by nearest neighbour to
{rows} x {columns}, {masked}. {parameters:,} parameters.{start}

## Data

{data}: {train} frames for training, {validation} for validation, {test} for testing. No
subject is in two of them. Each network takes those whose labels it needs.
Fingerprint of the frames: `{fingerprint}`.

## Measured on the {kind}test set

95 % intervals by bootstrap over subjects. A control is the score of a constant mask, which looks at no
frame. Masks put on the frames of this test were {exact}; in the pipeline they are another network's.

| measure | value | 95 % interval | frames | control |
|---|---|---|---|---|
{table}

## Known failures

{failures}
A frame from a machine whose pictures the training frames do not resemble may get any answer.

## Made by

`{command}`, {minutes} minutes, {code}.
"""


_SYNTHETIC: Final = """\
Trained and measured on synthetic
frames: no frame of any patient was seen, and nothing here says how well it does on one."""

_OF_SOURCES: Final = """\
Trained and measured on the frames
listed below; nothing here says how well it does on others. The terms of each set hold for this model."""


def write_card(trained: Trained, version: str, facts: Mapping[str, Any]) -> str:
    """Write the card of one bundle, Markdown.

    Args:
        trained: the model and its metrics.
        version: of the bundle.
        facts: as they stand in the bundle's manifest under "training".
    """
    plan, sources = facts["plan"], facts.get("sources")
    _, rows, columns, _ = trained.model.input_shape
    table = [
        f"| {name} | {it.value:.3f} | {it.low:.3f} to {it.high:.3f} | {it.n} | "
        f"{'' if it.control is None else f'{it.control:.3f}'} |"
        for name, it in trained.metrics.items()
    ]
    command = f"echobeam train {facts['recipe']} --seed {facts['seed']} --preset {facts['preset']}"
    command += "" if plan is None else f" --subjects {plan['subjects']}"
    command += "" if facts["epochs"] is None else f" --epochs {facts['epochs']}"
    command += f" --precision {facts['precision']}" if "precision" in facts else ""
    command += "".join(f" {option}" for option in facts.get("options", ()))
    start = facts.get("convolutions_from")
    return _CARD.format(
        task=trained.task,
        version=version,
        purpose=_PURPOSES[trained.task],
        preset=facts["preset"],
        rows=rows,
        columns=columns,
        masked=_MASKED[trained.mask],
        parameters=trained.model.count_params(),
        start="" if start is None else f" Convolutions started from: {start}.",
        warning=_SYNTHETIC if sources is None else _OF_SOURCES,
        data=_phantom_words(plan) if sources is None else _source_words(sources),
        kind="synthetic " if sources is None else "",
        exact="exact" if sources is None else "those of the labels",
        **facts["frames"],
        fingerprint=facts["data_fingerprint"][:16],
        table="\n".join(table),
        failures=_FAILURES[trained.task],
        command=command,
        minutes=facts["minutes"],
        code=facts["code_version"],
    )


_CALIBRATION: Final = "## Calibration"
_MADE_BY: Final = "## Made by"


def add_calibration(card: str, calibration: Calibration, metrics: Mapping[str, Interval]) -> str:
    """Put a section on calibration into a card, in place of one that is there.

    Args:
        card: Markdown, as `write_card` gives it.
        calibration: what was fitted.
        metrics: of calibration, on frames it was not fitted on.
    """
    text = (
        f"Fitted on {calibration.frames} frames of {calibration.subjects} subjects ({calibration.source};\n"
        f"fingerprint `{calibration.fingerprint[:16]}`), none of whom the network learned from; measured on\n"
        f"others. Temperature {calibration.temperature:.3f}."
    )
    if calibration.open_set is not None:
        text += (
            f" A frame is unknown if its score ({calibration.open_set.score.replace('_', ' ')}\n"
            f"of the last hidden layer) is below {calibration.open_set.threshold:.2f}, which keeps "
            f"{calibration.open_set.coverage:.0%} of the frames it was\nfitted on. Some of what is no "
            "transthoracic view is called known all the same;\n`echobeam experiment open-set` says how much."
        )
    lines = [_CALIBRATION, "", text]
    lines += ["", "| measure | value | 95 % interval | frames |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {it.value:.3f} | {it.low:.3f} to {it.high:.3f} | {it.n} |"
        for name, it in metrics.items()
    ]
    start, _, made = card.partition(_MADE_BY)
    return "\n".join([start.partition(_CALIBRATION)[0].rstrip(), "", *lines, "", _MADE_BY + made])


def _phantom_words(plan: Mapping[str, Any]) -> str:
    return (
        f"Phantom frames of {plan['subjects']} synthetic subjects (seed {plan['seed']}, severity of "
        f"artefacts {plan['severity']}, share with\nhypertrophy {plan['lvh_ratio']})"
    )


def _source_words(sources: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| set | frames | subjects | labels | to know |", "|---|---|---|---|---|"]
    for source in sources:
        labels = ", ".join(f"{name} {count}" for name, count in source["labels"].items() if count)
        lines.append(
            f"| {source['kind']} | {source['frames']} | {source['subjects']} | {labels or 'none'} | "
            f"{'; '.join(source['notes'])} |"
        )
    return "\n".join(lines) + "\n\nDivided by subject"
