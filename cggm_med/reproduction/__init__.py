"""Tables and figures of the papers, by name: trained with the papers' settings, written beside published figures."""
