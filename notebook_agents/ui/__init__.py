"""What people see and press in a notebook; everything that it shows is read from the journal."""
