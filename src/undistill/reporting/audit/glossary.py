"""The words that an audit's page uses, in a line each."""

from __future__ import annotations

from undistill.auditing.judgement import Judgement
from undistill.reporting.audit.words import controlled, points_text

TITLE = "Words used here"


def glossary(judgement: Judgement) -> dict[str, str]:
    """Word → what it means; those of a twin only where there is one."""
    found = {
        "thief": "Somebody who asks the model questions and trains a model of their own on its answers; here, a program.",
        "copy, student": "The model that a thief trains. Its accuracy is how often it is right on test images.",
        "student alone": "The same kind of student, trained on images with true labels, without any answer of the model.",
        "labels alone": "The model says its top class and nothing else (also: top class alone).",
    }
    if controlled(judgement):
        found["twin"] = (
            "The same kind of model, trained without the defense, or without what stands in front of it: what there was to take."
        )
        found["headroom"] = (
            "What soft answers (probabilities) of the undefended twin are worth to a thief over labels alone."
        )
    found["teacher" if judgement.question == "method" else "seed"] = (
        "One more model of the same method, trained anew."
        if judgement.question == "method"
        else "One more run, with other random choices and other images drawn."
    )
    found["held-out score, search score"] = (
        "Accuracy on images kept aside, by which thieves are ranked before they meet the test images."
    )
    found["δ"] = f"The difference that counts as none: here {points_text(judgement.delta)} of accuracy."
    return found
