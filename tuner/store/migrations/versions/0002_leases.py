"""Leases have a table of their own, whose key says that a round has one at most."""

import sqlalchemy as sa
from alembic import op

from tuner.store.tables import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tuner_leases",
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(512), nullable=False),
        sa.Column("host", sa.String(512), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process", sa.String(512), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("expires", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["round_id"], ["tuner_rounds.id"], name="fk_tuner_leases_round_id_tuner_rounds", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("round_id", name="pk_tuner_leases"),
    )
    # A lease of before is not carried over: its owner is an earlier version of tuner, which has to end first anyway.
    with op.batch_alter_table("tuner_rounds") as table:
        table.drop_column("lease_owner")
        table.drop_column("lease_expires")
