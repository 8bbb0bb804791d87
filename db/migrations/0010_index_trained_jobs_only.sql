-- Who looks for succeeded jobs wants those that were trained: a job that took an equal one's result
-- says nothing that the other does not say. So they stay out of the indices, which makes it cheaper to
-- record an experiment that is known already.
DROP INDEX job_succeeded_by_spec;
DROP INDEX job_succeeded_by_network;
CREATE INDEX job_trained_by_spec ON job (spec_sha256) WHERE state = 'succeeded' AND cached_from IS NULL;
CREATE INDEX job_trained_by_network ON job (model, dataset) WHERE state = 'succeeded' AND cached_from IS NULL;
