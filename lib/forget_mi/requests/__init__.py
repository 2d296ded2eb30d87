"""Requests: a model in use, the ledger of the deletion requests that it served, the report, the
model card."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "served_model": "ServedModel",
        "ledger": "ledger_problems",
        "serving": "retrain serve serve_together",
        "service": "Service",
        "report": "write_report",
        "card": "pack_model",
        "erasure": "delete_records",
    },
    extra="notebooks",
)
