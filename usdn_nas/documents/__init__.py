"""Models of the JSON files in a run folder. Each file has one model, which checks it when it is written and when read.

Files may have keys that the models do not have, such as provenance.
"""

from usdn_nas.documents.base import Part, read_document, write_document
from usdn_nas.documents.evaluation import EvaluationDocument
from usdn_nas.documents.study import ArchitectureDocument, ChainDocument, EngineDocument, StagesDocument, StudyDocument
from usdn_nas.documents.supernet import DiagnosticsDocument, LadderDocument, SensitivityDocument

__all__ = [
    "ArchitectureDocument",
    "ChainDocument",
    "DiagnosticsDocument",
    "EngineDocument",
    "EvaluationDocument",
    "LadderDocument",
    "Part",
    "SensitivityDocument",
    "StagesDocument",
    "StudyDocument",
    "read_document",
    "write_document",
]
