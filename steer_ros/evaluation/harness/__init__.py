"""What every suite is built from: cases, turns, results, intervals, and the setups under test."""
