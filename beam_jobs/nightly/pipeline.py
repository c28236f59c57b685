"""A night as one sentence of Beam: train, evaluate, judge, publish.

One element goes through, the night's order: what it makes is too large for a shuffle and lies in its
workplace. Steps differ in what they need of a machine, so training asks for an accelerator. A runner that
knows no such hint, as the in-process one, trains on what there is.
"""

from dataclasses import dataclass

import apache_beam as beam

from beam_jobs.nightly.stages import evaluate_model, judge_model, publish_model, train_model


@dataclass
class RetrainModel(beam.PTransform):
    """Train a model, judge it, and put it to work if it is better.

    Takes a PCollection of `NightOrder`. Gives one of `Night`, one per order. A step that is run again
    finds what it made before.

    Attributes:
        accelerator: resource hint of the training step, in Beam's words; empty for none.
    """

    accelerator: str = ""

    def expand(self, orders: beam.PCollection) -> beam.PCollection:
        """Wire the sentence."""
        hints = {"accelerator": self.accelerator} if self.accelerator else {}
        return (
            orders
            | "TrainModels" >> beam.Map(train_model).with_resource_hints(**hints)
            | "EvaluateModels" >> beam.Map(evaluate_model)
            | "JudgeModels" >> beam.Map(judge_model)
            | "PublishModels" >> beam.Map(publish_model)
        )
