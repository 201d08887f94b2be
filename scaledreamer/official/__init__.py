"""Conversion of the official ScaleDreamer's released weights and settings."""
