"""What is asked, and the folder that a run leaves: shared by the diagnosis and the repairs."""
