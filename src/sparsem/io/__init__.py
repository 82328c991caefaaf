"""Reading and writing of files of other programs."""
