"""Pages and pictures of what was measured: model cards, the data card, videos."""
