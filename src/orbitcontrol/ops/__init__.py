"""What people ask for, as functions of a store: import, plan, verify, export, set a revision, status."""
