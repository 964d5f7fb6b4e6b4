-- What version 2 of the results database ran; never changed.
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	PRIMARY KEY (version_num)
);
CREATE TABLE models (
	hash VARCHAR(64) NOT NULL,
	card JSON NOT NULL,
	PRIMARY KEY (hash)
);
CREATE TABLE batches (
	id INTEGER NOT NULL,
	folder VARCHAR NOT NULL,
	started DATETIME NOT NULL,
	out VARCHAR NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT one_folder_of_results UNIQUE (out)
);
CREATE TABLE events (
	id INTEGER NOT NULL,
	at DATETIME NOT NULL,
	kind VARCHAR(17) NOT NULL,
	who VARCHAR NOT NULL,
	reason VARCHAR NOT NULL,
	model VARCHAR(64) NOT NULL,
	details JSON NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT kind_is_known CHECK (kind IN ('recalibrated', 'threshold changed', 'model switched', 'drift alarm'))
);
CREATE INDEX events_by_time ON events (at, id);
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TABLE intents (
	bundle VARCHAR NOT NULL,
	at DATETIME NOT NULL,
	kind VARCHAR(17) NOT NULL,
	who VARCHAR NOT NULL,
	reason VARCHAR NOT NULL,
	model VARCHAR(64) NOT NULL,
	details JSON NOT NULL,
	PRIMARY KEY (bundle)
);
CREATE TABLE calibrations (
	id VARCHAR(64) NOT NULL,
	model VARCHAR(64) NOT NULL,
	content JSON NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(model) REFERENCES models (hash)
);
CREATE TABLE requests (
	id INTEGER NOT NULL,
	batch INTEGER NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	who VARCHAR NOT NULL,
	at DATETIME NOT NULL,
	comment VARCHAR NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(batch) REFERENCES batches (id)
);
CREATE INDEX requests_by_bytes ON requests (batch, sha256);
CREATE TABLE inspections (
	id INTEGER NOT NULL,
	batch INTEGER NOT NULL,
	path VARCHAR NOT NULL,
	size BIGINT NOT NULL,
	mtime_ns BIGINT NOT NULL,
	sha256 VARCHAR(64),
	model VARCHAR(64) NOT NULL,
	calibration VARCHAR(64) NOT NULL,
	settings JSON NOT NULL,
	scored_at DATETIME NOT NULL,
	height INTEGER,
	width INTEGER,
	score DOUBLE,
	peak DOUBLE,
	verdict VARCHAR(7) NOT NULL,
	review DOUBLE NOT NULL,
	reject DOUBLE NOT NULL,
	pixel DOUBLE NOT NULL,
	defect_count INTEGER NOT NULL,
	defect_area BIGINT NOT NULL,
	defect_area_um2 DOUBLE,
	largest_defect INTEGER NOT NULL,
	pixel_size DOUBLE,
	warning VARCHAR NOT NULL,
	notes VARCHAR NOT NULL,
	reason VARCHAR NOT NULL,
	device VARCHAR NOT NULL,
	decode_s DOUBLE,
	inference_s DOUBLE,
	post_s DOUBLE,
	PRIMARY KEY (id),
	UNIQUE (batch, path),
	CONSTRAINT verdict_is_known CHECK (verdict IN ('accept', 'review', 'reject', 'invalid')),
	CONSTRAINT score_unless_invalid CHECK ((verdict = 'invalid') = (score IS NULL)),
	FOREIGN KEY(batch) REFERENCES batches (id),
	FOREIGN KEY(model) REFERENCES models (hash),
	FOREIGN KEY(calibration) REFERENCES calibrations (id)
);
CREATE INDEX inspections_by_batch ON inspections (batch, verdict, scored_at, score);
CREATE INDEX inspections_by_model ON inspections (model, verdict, scored_at, score);
CREATE INDEX inspections_by_calibration ON inspections (calibration, scored_at, id, score);
CREATE INDEX inspections_by_time ON inspections (scored_at, id);
CREATE INDEX inspections_by_severity ON inspections (verdict, score, id);
CREATE INDEX inspections_by_verdict ON inspections (verdict, scored_at, score);
CREATE INDEX inspections_by_bytes ON inspections (batch, sha256);
CREATE INDEX inspections_by_threshold ON inspections (model, verdict, score, peak);
CREATE TABLE reviews (
	id INTEGER NOT NULL,
	batch INTEGER NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	path VARCHAR NOT NULL,
	who VARCHAR NOT NULL,
	role VARCHAR(8) NOT NULL,
	at DATETIME NOT NULL,
	label VARCHAR(13) NOT NULL,
	comment VARCHAR NOT NULL,
	box_top INTEGER,
	box_left INTEGER,
	box_bottom INTEGER,
	box_right INTEGER,
	model VARCHAR(64) NOT NULL,
	calibration VARCHAR(64) NOT NULL,
	verdict VARCHAR(7) NOT NULL,
	score DOUBLE,
	withdrawn_at DATETIME,
	withdrawn_by VARCHAR,
	PRIMARY KEY (id),
	CONSTRAINT label_is_known CHECK (label IN ('confirmed', 'false alarm', 'missed defect')),
	CONSTRAINT withdrawn_by_somebody CHECK ((withdrawn_at IS NULL) = (withdrawn_by IS NULL)),
	CONSTRAINT missed_is_drawn CHECK ((label = 'missed defect') <= (box_top IS NOT NULL)),
	FOREIGN KEY(batch) REFERENCES batches (id),
	FOREIGN KEY(model) REFERENCES models (hash),
	FOREIGN KEY(calibration) REFERENCES calibrations (id)
);
CREATE INDEX reviews_by_bytes ON reviews (batch, sha256);
CREATE TABLE defects (
	inspection INTEGER NOT NULL,
	number INTEGER NOT NULL,
	top INTEGER NOT NULL,
	"left" INTEGER NOT NULL,
	bottom INTEGER NOT NULL,
	"right" INTEGER NOT NULL,
	area INTEGER NOT NULL,
	area_um2 DOUBLE,
	peak DOUBLE NOT NULL,
	"row" DOUBLE NOT NULL,
	col DOUBLE NOT NULL,
	PRIMARY KEY (inspection, number),
	FOREIGN KEY(inspection) REFERENCES inspections (id) ON DELETE CASCADE
);
CREATE INDEX defects_by_area ON defects (area);
INSERT INTO alembic_version (version_num) VALUES ('0002');
PRAGMA user_version = 2;
