"""What each verb does: from a composed config to files; scripts/ only calls."""
