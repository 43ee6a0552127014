"""Alembic's environment: tuner's tables only, on the connection that `tuner.store.database` hands over."""

from alembic import context

from tuner.store.database import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata(),
    version_table=VERSION_TABLE,
    render_as_batch=True,
    include_name=lambda name, kind, _parents: kind != "table" or str(name).startswith("tuner_"),
)
with context.begin_transaction():
    context.run_migrations()
