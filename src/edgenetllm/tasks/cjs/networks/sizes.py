"""Sizes of the networks of CJS, with torch and without: of the features, of the layers, and of the fixed choices."""

HIDDEN = 32  # of stage and job embeddings
SPREAD = 10  # of the features of stages and jobs: their differences are small in the unit range
STAGE_FEATURES = 8
JOB_FEATURES = 9
CLUSTER_FEATURES = 6
STAGE_INPUTS = STAGE_FEATURES + JOB_FEATURES  # a stage's own features and its job's
KNOWN = STAGE_INPUTS + 2 * HIDDEN  # all numbers of a stage: its inputs, its embedding and its job's
NUMBER_FEATURES = 6  # of a number of executors
NEVER = -1e9  # logit of a choice that is not allowed

# tokens=per_stage
PLACES = 16  # stages that get a token; an empty place has a learned one
MOST_EXECUTORS = 100  # that a stage can get in one decision
