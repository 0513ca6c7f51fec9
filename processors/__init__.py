"""The stream side: consume in chunks, decide, handle, write, acknowledge."""
