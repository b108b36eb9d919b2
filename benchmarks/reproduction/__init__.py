"""The papers' tables on real FERPlus: what they hold, how their cells are trained, and the page made of the records."""
