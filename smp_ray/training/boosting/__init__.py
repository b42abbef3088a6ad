"""Predictors: from columns to popularity."""
