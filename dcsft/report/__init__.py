"""How numbers are shown: scores of finished cells become tables, figures and one HTML page."""
