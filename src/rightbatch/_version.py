"""The version, in a module of its own: what stands below the package's own names imports it from here."""

__version__ = "0.1.0"
