"""What steering does to answers: suites of questions with known answers, measured with intervals and controls."""
