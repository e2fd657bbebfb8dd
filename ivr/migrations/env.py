"""Alembic's entry point: runs the steps on the connection that ``ivr.database`` hands over."""

from __future__ import annotations

from alembic import context


def run() -> None:
    """Apply the steps in one transaction each."""
    connection = context.config.attributes["connection"]
    # SQLite cannot alter most things in place; batch mode copies the table, and is harmless elsewhere.
    context.configure(connection=connection, render_as_batch=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


run()
