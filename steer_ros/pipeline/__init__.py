"""When: lanes, mailboxes, the handover, the frame synchronizer, deadlines and traces. No ROS here."""
