"""Calls and their events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables and the indexes for reading by call and by time."""
    op.create_table(
        "calls",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("call_ref", sa.String(255)),
        sa.Column("agent_ext", sa.String(64)),
        sa.Column("pack", sa.String(255)),
        sa.Column("mode", sa.String(32)),
        sa.Column("started_at", sa.String(40), nullable=False),
        sa.Column("ended_at", sa.String(40)),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("why", sa.Text),
    )
    op.create_index("ix_calls_started_at", "calls", ["started_at"])
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("uid", sa.String(64), nullable=False, unique=True),
        sa.Column("call_id", sa.String(255), nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("t_ms", sa.BigInteger, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_index("ix_events_call_id", "events", ["call_id", "id"])
    op.create_index("ix_events_at", "events", ["at"])


def downgrade() -> None:
    """Drop everything."""
    op.drop_table("events")
    op.drop_table("calls")
