"""When: lanes, mailboxes, the meeting of tokens and masks, traces. No ROS here."""
