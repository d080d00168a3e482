"""AlphaSet for any model: three sets of edits, each with one kind of conflict, chosen by measuring the model.

AlphaSet1 conflicts with preserved knowledge (s(k, K0) is high), AlphaSet2 with previous edits (s(k, Kp)), AlphaSet3
with the model's current values (‖r‖).
"""
