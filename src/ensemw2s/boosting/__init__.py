"""Boosting over the flat token axis: pure float64 maths, no input or output.

Convention of the multi-class weights (SAMME, Hastie et al. 2009, with the paper's prior):
``alpha = log((1 - error) / error) + prior`` and ``w <- w * exp(shrinkage * alpha * wrong)``, normalised. There is no
factor 1/2, which only the two-sided update of binary AdaBoost has. Shrinkage acts on the update of the weights
only; the mixture uses alpha itself. scikit-learn folds its learning rate into the stored estimator weight, which
is ``shrinkage * alpha`` here; the sample weights are the same.
"""
