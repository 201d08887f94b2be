"""The official ScaleDreamer: its released weights and settings, as weights and settings of ours."""
