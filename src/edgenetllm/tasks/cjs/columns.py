"""The columns of the rows of an observation: stages and jobs (simulator/observation.py writes them)."""

STAGE_COLUMNS = (
    "job",  # row of its job
    "schedulable",  # 1: may be chosen
    "ready",  # 1: all parents complete
    "remaining",  # tasks not started
    "demand",  # of these, tasks for which no executor is on its way or promised
    "recent_ms",  # duration of the task started last; 0: none yet
    "rough_ms",  # mean of all measurements of the stage
    "path_ms",  # work not started on the longest way from here to the end of the job
    "whole_path_ms",  # the longest such way when no task had started
    "level",  # edges on that way, at most
)
JOB_COLUMNS = (
    "supply",  # executors there, on their way, or promised from elsewhere
    "work_ms",  # tasks times rough duration of the whole job
    "left_ms",  # of the tasks that have not started
    "path_ms",  # the longest path in it
    "age_ms",  # since arrival
    "id",  # number of the job in the episode
)
JOB, SCHEDULABLE, READY, REMAINING, DEMAND, RECENT, ROUGH, PATH, WHOLE_PATH, LEVEL = range(len(STAGE_COLUMNS))
SUPPLY, WORK, LEFT, JOB_PATH, AGE, ID = range(len(JOB_COLUMNS))
