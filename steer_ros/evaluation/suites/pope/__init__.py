"""The `pope` suite: yes-or-no questions about objects that are there or not (POPE)."""
