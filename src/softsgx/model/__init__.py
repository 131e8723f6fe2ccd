"""What is answered to an event and what has to be done to the process: values only."""
