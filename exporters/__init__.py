"""Exporters: functions that turn a trained run, or its exported files, into files for other programs."""
