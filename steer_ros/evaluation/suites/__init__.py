"""The suites: questions with known answers, each asked steered and unsteered."""
