"""From a trained run to files for other programs; a registry too."""
