-- What version 1 of the results database ran; never changed.
CREATE TABLE batches (
	id INTEGER NOT NULL,
	folder VARCHAR NOT NULL,
	started DATETIME NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (folder)
);
CREATE TABLE models (
	hash VARCHAR(64) NOT NULL,
	card JSON NOT NULL,
	PRIMARY KEY (hash)
);
CREATE TABLE calibrations (
	id VARCHAR(64) NOT NULL,
	model VARCHAR(64) NOT NULL,
	content JSON NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(model) REFERENCES models (hash)
);
CREATE TABLE inspections (
	id INTEGER NOT NULL,
	batch INTEGER NOT NULL,
	path VARCHAR NOT NULL,
	size INTEGER NOT NULL,
	mtime_ns INTEGER NOT NULL,
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
	defect_area INTEGER NOT NULL,
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
CREATE INDEX ix_inspections_verdict ON inspections (verdict);
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
PRAGMA user_version = 1;
