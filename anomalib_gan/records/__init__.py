"""What happened: the results database and the reports made from it."""
