"""Numbers of the public protocol that observations and networks share."""

CHUNKS = 48  # of a public video; the size files have a 49th line that is never played
PAST = 8  # chunks remembered in the observation, as in Pensieve's state
PAYLOAD_SHARE = 0.95  # of the bytes that a link carries
