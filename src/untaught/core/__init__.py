"""The words: nine nouns and the contracts. Imports nothing from the other rooms, and no torch."""

from .budget import Budget, Spent
from .compute import Compute
from .contracts import METHOD, Evaluation, Filter, Intervention, Loss, Rig, Role, Scorer, Shelf
from .errors import ExitCode, Inapplicable, UserError, suggest
from .record import Record
from .settings import Settings
from .statistics import Summary, by_metric, summarise
from .stop import Stop
from .subject import Corpus, Subject, Wrap
from .tables import (
    FINDINGS,
    MARKS,
    MASKED,
    MESSAGES,
    SPAN,
    Document,
    Documents,
    Finding,
    Findings,
    Mark,
    Marks,
    Mask,
    documents,
    findings,
    marks,
    require,
)

__all__ = [
    "FINDINGS", "MARKS", "MASKED", "MESSAGES", "METHOD", "SPAN", "Budget", "Compute", "Corpus", "Document", "Documents",
    "Evaluation", "ExitCode", "Filter", "Finding", "Findings", "Inapplicable", "Intervention", "Loss", "Mark",
    "Marks", "Mask", "Record", "Rig", "Role", "Scorer", "Settings", "Shelf", "Spent", "Stop", "Subject", "Summary",
    "UserError", "Wrap", "by_metric", "documents", "findings", "marks", "require", "suggest", "summarise",
]  # fmt: skip
