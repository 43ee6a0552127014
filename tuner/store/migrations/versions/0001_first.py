"""Data versions, rounds with their lease, stages and champions."""

import sqlalchemy as sa
from alembic import op

from tuner.store.tables import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tuner_data_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study", sa.String(512), nullable=False),
        sa.Column("fingerprint", sa.String(512), nullable=False),
        sa.Column("first_seen", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tuner_data_versions"),
        sa.UniqueConstraint("study", "fingerprint", name="uq_tuner_data_versions_study_fingerprint"),
    )
    op.create_table(
        "tuner_rounds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study", sa.String(512), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("optuna_study", sa.String(512), nullable=False),
        sa.Column("digest", sa.String(512), nullable=False),
        sa.Column("identity", sa.JSON(), nullable=False),
        sa.Column("metric", sa.String(512), nullable=False),
        sa.Column("direction", sa.String(512), nullable=False),
        sa.Column("data_version_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(512), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("seconds_used", sa.Double(), nullable=False),
        sa.Column("budget", sa.JSON(), nullable=False),
        sa.Column("lease_owner", sa.String(512), nullable=True),
        sa.Column("lease_expires", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["data_version_id"],
            ["tuner_data_versions.id"],
            name="fk_tuner_rounds_data_version_id_tuner_data_versions",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_tuner_rounds"),
        sa.UniqueConstraint("study", "number", name="uq_tuner_rounds_study_number"),
        sa.UniqueConstraint("study", "digest", name="uq_tuner_rounds_study_digest"),
        sa.UniqueConstraint("optuna_study", name="uq_tuner_rounds_optuna_study"),
    )
    op.create_table(
        "tuner_stages",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["round_id"], ["tuner_rounds.id"], name="fk_tuner_stages_round_id_tuner_rounds", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_tuner_stages"),
        sa.UniqueConstraint("round_id", "number", name="uq_tuner_stages_round_id_number"),
    )
    op.create_table(
        "tuner_champions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("overrides", sa.JSON(), nullable=False),
        sa.Column("provisional", sa.Boolean(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["round_id"], ["tuner_rounds.id"], name="fk_tuner_champions_round_id_tuner_rounds", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_tuner_champions"),
        sa.UniqueConstraint("round_id", name="uq_tuner_champions_round_id"),
    )


def downgrade() -> None:
    for table in ("tuner_champions", "tuner_stages", "tuner_rounds", "tuner_data_versions"):
        op.drop_table(table)
