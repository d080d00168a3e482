"""Efficacy, Generalization, Specificity and Score."""
