"""Schema of the journal, step by step (Alembic), shipped with the program and run at start.

A new step: a module in ``versions`` named ``NNNN_subject.py`` with ``revision``, ``down_revision``, ``upgrade`` and
``downgrade``, in SQL that both SQLite and PostgreSQL take; ``ivr.database.SCHEMA`` names the newest. A step that was
released is never edited.
"""
