"""All measuring code: speed against limits, worth of data, settings compared."""
