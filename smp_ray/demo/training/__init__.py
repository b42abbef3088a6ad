"""Training of the three small models the sample world ships; run by `jobs/train_demo_models.py`, never by a stage."""
