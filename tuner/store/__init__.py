"""The study database: Optuna's tables and tuner's own in one place. Never imports torch."""
