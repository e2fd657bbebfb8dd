"""Where the ladder of each live call stands, for the process that comes after."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One row a live call."""
    op.create_table(
        "ladders",
        sa.Column("call_ref", sa.String(255), primary_key=True),
        sa.Column("wall_ms", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_index("ix_ladders_wall_ms", "ladders", ["wall_ms"])


def downgrade() -> None:
    """Forget them."""
    op.drop_table("ladders")
