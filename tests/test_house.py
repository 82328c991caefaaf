"""The rules of the house: the layer law, no pickles, pinned public names, documented functions, settings with help."""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import sparsem
from sparsem.settings import Settings

SOURCE = Path(sparsem.__file__).parent

# Earlier lines are lower layers: a module imports only from earlier lines, or earlier in its own line.
LAYERS = [
    "sparsem errors interruption compiled geometry settings slice_lists progress",
    "execution store store.locks store.pyramid store.frame store.kept store.volume store.slice_use store.sample",
    "store.readers.missing store.readers.source",
    "store.readers.units store.readers.arrays store.readers.placement store.readers.tiff_parts store.readers.display",
    "store.readers.png store.readers.tiff",
    "store.readers.file_names store.readers.name_columns store.readers.gaps store.readers.file_order store.readers.patterns",
    "store.readers.name_faults",
    "store.readers.series",
    "store.readers.zarr_chunks store.readers.zarrs store.readers.hdf5_files store.readers.hdf5_virtual store.readers.hdf5_parts",
    "store.readers.hdf5 store.readers.mrc_bytes store.readers.mrc store.readers.nrrds",
    "store.readers.matlab store.readers store.writers tasks stage ingest",
    "phantom.noise phantom.anatomy phantom.draw phantom",
    "regions label_numbers label_volumes annotations",
    "prepare prepare.registration prepare.drift prepare.align prepare.clahe prepare.equalize",
    "prepare.unseen quality quality.spectrum quality.rings quality.sequence quality.verdict quality.resin quality.stack",
    "numbering origins drawings labelling truth",
    "contents slice_roles boxes box_tables tiles tiles.context tiles.doubt tiles.targets tiles.augment tiles.sampling",
    "models.resunet models.unet models.unetplusplus models.fractal models.fractalresnet models.ceecnet models.senformer",
    "models.transunet models.setr models models.device models.checkpoint models.memory",
    "prepare.noise2void prepare.nonlocal_means prepare.denoise",
    "quality.reference quality.learnt quality.picture quality.pictures quality.statistics quality.compare",
    "score score.overlap score.instances score.islands score.against score.boxes",
    "learn learn.losses learn.settings learn.course learn.files learn.slices learn.supervised",
    "learn.validation learn.semi learn.train learn.folds",
    "inference predict suggest",
    "cells cells.flow cells.arrival cells.separate cells.propagate cells.refine cells.doubt cells.intervals cells.segment",
    "cells.track cells.look cells.identify",
    "constrain measure measure.moments measure.surface measure.hull measure.shape measure.outline measure.glcm",
    "measure.size_zones measure.pattern_spectrum measure.texture measure.nucleolus measure.distances measure.protrusions",
    "measure.dictionary measure.settings measure.objects measure.crops measure.passes measure.pieces measure.records",
    "measure.cells measure.tables measure.remarks",
    "detect detect.weights detect.detector detect.retinanet detect.deformable_detr detect.networks detect.recipe detect.slicing",
    "detect.inference detect.settings detect.box_file detect.numbers detect.tables detect.coco detect.yolo detect.formats",
    "detect.writing detect.image_slices",
    "detect.bringing detect.splitting detect.tiles detect.calibration detect.train detect.predict detect.outline detect.sam detect.masks",
    "detect.constraints detect.score detect.summary detect.whole",
    "report report.figures report.mesh report.encode report.plots report.warnings report.view report.boxes report.layers",
    "report.slices report.solids report.scene report.quality_plots report.charts report.page report.comparison report.render",
    "report.pieces report.export",
    "protocols study_settings study experiment experiment.cells experiment.check experiment.slices experiment.models",
    "cli.options cli.scores cli.bringing cli.preparing cli.learning cli.asking cli.looking",
    "cli.detecting cli.separating cli.results cli.whole cli.console cli __main__",
]
ORDER = [name if name == "sparsem" else f"sparsem.{name}" for layer in LAYERS for name in layer.split()]
ARRAYS_ONLY = ("sparsem.cells", "sparsem.constrain", "sparsem.measure", "sparsem.report")  # rows 7 to 9 of the design
LEARNING = ("sparsem.models", "sparsem.score", "sparsem.learn", "sparsem.predict", "sparsem.detect")  # rows 4 to 6


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path) -> set[str]:
    """Modules of sparsem that a file imports, at the top or lazily."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in ORDER else node.module for alias in node.names}
    return {name for name in found if name.split(".")[0] == "sparsem"}


def test_every_module_has_its_place() -> None:
    assert sorted(modules()) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_down_only(name: str) -> None:
    for imported in imports_of(modules()[name]):
        assert ORDER.index(imported) < ORDER.index(name), f"{name} imports {imported}"


def test_reports_speak_in_arrays() -> None:
    for name, path in modules().items():
        if name.startswith(ARRAYS_ONLY):
            assert not [one for one in imports_of(path) if one.startswith(LEARNING)], name


def test_compute_knows_no_dask_no_viewer_no_command_line() -> None:
    allowed = {
        "sparsem.execution": {"distributed"},
        "sparsem.stage": {"distributed"},
        "sparsem.cli": {"typer"},
        "sparsem.cli.options": {"typer"},
        **{f"sparsem.cli.{name}": {"typer"} for name in ("asking", "bringing", "detecting", "learning", "looking", "results", "whole")},
    }
    for name, path in modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert names & {"dask", "distributed", "napari", "typer", "click"} <= allowed.get(name, set()), name


def test_nothing_loads_a_pickle() -> None:
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        assert not [word for word in ("pickle.load", "import pickle", "allow_pickle=True") if word in text], name
        assert "torch.load" not in text or "weights_only=True" in text, name


def test_files_and_functions_stay_small() -> None:
    lengths = []
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, f"{name} is long: is it one concept?"
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        lengths += [(node.end_lineno or 0) - node.lineno + 1 for node in functions]
        assert all((node.end_lineno or 0) - node.lineno < 60 for node in functions), name
    lengths.sort()
    assert lengths[len(lengths) // 2] <= 14
    assert lengths[int(len(lengths) * 0.9)] <= 36


PUBLIC = {
    "sparsem.ingest": "GreyLevels ImportSettings grey_of import_stack opened refuse_nan tell_reading voxel_of",
    "sparsem.annotations": (
        "LabelledSlices annotated_structures annotation_names annotation_of_output annotations_on corrected_slices "
        "drawn_on_image file_numbers "
        "forget_aside inside_of kept_labels origin_of outputs_of_cells read_annotation record_origin restore_annotation write_annotation"
    ),
    "sparsem.label_numbers": (
        "Renumbering Special extended is_any_of mark_among numbers_in refuse_smeared renumbered unchanged whole_numbers"
    ),
    "sparsem.label_volumes": "Reading keep_table labels_block reading_of",
    "sparsem.origins": "Prediction Similarity origins predictions_of same_boundary",
    "sparsem.drawings": "Drawing kept_slice origins_of read_drawing report_numbers",
    "sparsem.store.readers.display": "Display full_range notes_of palette_display refuse_color refuse_color_tiff tiff_display",
    "sparsem.store.readers.png": "PngHeader png_header png_slice read_png",
    "sparsem.truth": "SparseStack Truth TruthSettings parsed_box truth_of",
    "sparsem.labelling": "AnnotationSettings import_annotation import_labels",
    "sparsem.phantom": "Faults PhantomSettings PhantomSlice faults_of phantom phantom_slice",
    "sparsem.execution": "Execution Needs client_of spread",
    "sparsem.interruption": "Stopped blocked_here end listen stops_after_steps",
    "sparsem.compiled": "compiled",
    "sparsem.store.locks": "acquired",
    "sparsem.cli.console": "accept_every_character replaced",
    "sparsem.store.sample": "Sample checked_name now save_table",
    "sparsem.store.volume": (
        "Kind Volume VolumeSpec create_volume json_bytes put_in_place read_attributes volume_spec write_atomically write_group"
    ),
    "sparsem.store.kept": "Kept",
    "sparsem.store.frame": "Frame MovedStack covers inverse joined moved rounded",
    "sparsem.prepare.registration": "Detail Registration coarse_shift correlations detail register rotation_nearest shrunk",
    "sparsem.prepare.drift": "Drift Link believed common_rectangle drift gaps groups",
    "sparsem.prepare.align": "AlignSettings Alignment RegisterSettings align alignment_table hardly_drifts steps",
    "sparsem.prepare.clahe": "locally_equalised",
    "sparsem.quality.spectrum": (
        "SliceSpectrum Stripes Texture autocorrelation sharpness spectrum_of stripes_by_direction texture_of tile_edge tiles_of"
    ),
    "sparsem.quality.rings": "resolution_px ring_correlation",
    "sparsem.quality.sequence": "Pair Sketch charging compared sketch_of spacing",
    "sparsem.quality.verdict": "Light Rule Verdict blur judged stack_light unlike usual",
    "sparsem.quality.resin": "Box Resin area_of_boxes area_of_polygon noise_in overlay proposal proposed",
    "sparsem.quality.reference": "Metric as_tensor beside mean_squared_error places psnr_of",
    "sparsem.quality.learnt": "Loaded brisque dists loaded",
    "sparsem.quality.picture": "Picture Tile measured refuse_unfit tables",
    "sparsem.quality.pictures": "PicturesSettings Planes measure_planes pictures planes_of weights_of write_tables",
    "sparsem.quality.statistics": "Correlation Difference difference holm least_p pearson spearman",
    "sparsem.quality.compare": "CompareSettings Compared Correlated GroupStep Test compared comparison_tables read_comparison",
    "sparsem.prepare.noise2void": "Course InFull denoised learn load_network new_network patches_of refuse_small refuse_without_careamics",
    "sparsem.prepare.unseen": "unseen",
    "sparsem.prepare.nonlocal_means": "smoothed",
    "sparsem.prepare.denoise": "DenoiseSettings Piece denoise",
    "sparsem.quality.stack": "Quality QualitySettings quality",
    "sparsem.prepare.equalize": ("EqualizeSettings counts_of equalising equalize matching quantiles running_median through"),
    "sparsem.store.readers": "open_montage open_source",
    "sparsem.store.readers.source": "Pick Placement Source Stack layout plain_axes sentences",
    "sparsem.store.readers.missing": "ChunkGrid Missing Part as_number missing_of refuse_missing runs_in_words touching",
    "sparsem.store.readers.placement": "PaddedStack placed",
    "sparsem.store.readers.arrays": "MappedStack open_npy",
    "sparsem.store.readers.tiff": "TiffStack open_tiff tiff_lengths",
    "sparsem.slice_lists": "parsed_slices",
    "sparsem.store.readers.units": "StatedLength axes_of faults_of stated_length unit_nm",
    "sparsem.store.readers.file_names": "FileName NamePart copied_from names_of natural_key negative split_names",
    "sparsem.store.readers.name_columns": "Column columns_of marked_columns",
    "sparsem.store.readers.gaps": "counts_slices is_complete is_nearly_complete missing_in",
    "sparsem.store.readers.file_order": "NameFault SeriesOrder numberings series_order",
    "sparsem.store.readers.patterns": "files_of_pattern is_pattern pattern_of_kind",
    "sparsem.store.readers.name_faults": "fault_sentence",
    "sparsem.store.readers.series": "SliceHeader SliceSeries open_pictures open_slices with_repeats",
    "sparsem.store.readers.tiff_parts": "missing_pages refuse_unwritten unwritten_segments",
    "sparsem.store.readers.zarr_chunks": "missing_chunks",
    "sparsem.store.readers.zarrs": "ZarrStack is_zarr open_zarr",
    "sparsem.store.readers.hdf5": "Hdf5Stack open_hdf5",
    "sparsem.store.readers.hdf5_files": "Datasets dataset_of datasets_in hdf5_file require_filters target_of",
    "sparsem.store.readers.hdf5_parts": "missing_parts",
    "sparsem.store.readers.hdf5_virtual": "Mapping boxes_of carried_over is_unlimited mappings_of source_path uncovered",
    "sparsem.store.readers.mrc_bytes": "Sign sign_of_bytes",
    "sparsem.store.readers.mrc": "UprightStack open_mrc",
    "sparsem.store.readers.nrrds": "PackedStack open_nrrd",
    "sparsem.store.readers.matlab": "MatlabStack TurnedStack open_matlab",
    "sparsem.store.writers": "Piece Together appearing several write_tiff write_volume",
    "sparsem.tasks": "BlockTask Link coarser_block link_arrays read_record",
    "sparsem.stage": "Stage earlier_setting fingerprint_of finished forget",
    "sparsem.tiles.context": "TileGrid enlarge mirrored scaled_shape shrink shrink_mask taper tile_starts",
    "sparsem.tiles.targets": "edges_and_depths interior_and_boundary shrink_labels",
    "sparsem.tiles.sampling": "Sampling TileSampler tile_counts",
    "sparsem.tiles.augment": "flipped_and_turned regreyed",
    "sparsem.models": "begin_pretrained build count_parameters model_class usual_rate usual_width",
    "sparsem.models.checkpoint": "Recipe filled load_checkpoint load_state load_tensors read_recipe save_checkpoint save_tensors state_of",
    "sparsem.learn.course": "Course Progress TrainingState learning_rate_at mean_known move run",
    "sparsem.learn.files": "TrainingFiles TrainingLog log_path",
    "sparsem.learn.supervised": "dice_on fit has_heads labelled_loss logits_of sampler_of start step validation_dice",
    "sparsem.models.memory": "Peak prediction_bytes training_bytes",
    "sparsem.learn.settings": "CourseSettings LearnSettings TrainSettings",
    "sparsem.learn.slices": "LearningSlice learning_slices unlabelled_slices",
    "sparsem.learn.semi": "MixedBatch MixedSampler Pair Ramp draw_boxes fit_with_unlabelled second_recipe start_pair step_with_unlabelled",
    "sparsem.learn.train": "Job course_of job_of train train_job training_needs updates_of",
    "sparsem.learn.folds": "Promise cross_validate fold_path held_out train_and_promise",
    "sparsem.learn.losses": "cross_entropy_loss dice_loss known_pixels known_tanimoto tanimoto_loss",
    "sparsem.suggest": "SuggestSettings Suggestion chosen spread_out suggest",
    "sparsem.inference": "ahead forward_on in_context mirrored_mean predict_slices quantised",
    "sparsem.predict": "PredictSettings answer_of hash_of predict settings_here",
    "sparsem.tiles.doubt": "Answer entropy together",
    "sparsem.regions": "Overlaps added at_shape overlaps places_in sizes",
    "sparsem.score.instances": (
        "Information Matching Panoptic RandError adapted_rand_error dice_of_cells instance_scores matching "
        "variation_of_information without_small"
    ),
    "sparsem.cells.flow": ("Carried FlowSettings composed flow_between inconsistency numbered on_grid places remapped sampled stay warped"),
    "sparsem.cells.arrival": "Arrival advanced departure first resistance spread",
    "sparsem.cells.separate": (
        "Evidence Seeds by_flow by_mask by_mask_and_border by_mask_and_flow edges faithful flooded per_frame seeds_of selective separated"
    ),
    "sparsem.cells.propagate": "ByArrival ByFlow ByFrame Carrier CarrySettings Front View moved",
    "sparsem.cells.refine": "enlarged filled grown refined with_islands",
    "sparsem.cells.doubt": "Place doubt nearer places_of_doubt",
    "sparsem.cells.intervals": "Fronts Leg legs seeds_of_nearest slice_fingerprints stored",
    "sparsem.cells.segment": "CellsSettings Job cells",
    "sparsem.cells.track": "Links Tracks links renamed resolve without_fragments",
    "sparsem.cells.look": "Look area_jumps disagreements jumps",
    "sparsem.cells.identify": "TrackSettings Tracked link_table look_table track track_table",
    "sparsem.experiment.check": "Check Measured check_of overlaps_with",
    "sparsem.experiment.models": "ModelsFound ModelsSettings Trained markdown models_compared",
    "sparsem.experiment.slices": "Run SlicesFound SlicesSettings drawn slices_compared",
    "sparsem.experiment.cells": "ExperimentSettings cells_compared",
    "sparsem.score.overlap": "OutlineCount Overlap average_dice dice_of_sums outline_count overlap pooled",
    "sparsem.score.islands": "IslandCount island_count",
    "sparsem.score.against": "ScoreSettings Scores dice_table score score_table",
    "sparsem.slice_roles": "slice_use_of",
    "sparsem.report.figures": (
        "ComparedCells ComparedSlice cells_beside_truth cells_overlay colour_of comparison dice_along_z dice_by_labelled overlay shown"
    ),
    "sparsem.numbering": "numbering_of slices_of",
    "sparsem.contents": "describe objects_of older_than_annotation outdated remove result_of",
    "sparsem.constrain": "ConstrainSettings Constrained Roles Rule allowed constrain most_probable release rules_of",
    "sparsem.measure.moments": "Moments combined compacted moments",
    "sparsem.measure.surface": "Surface reach slice_surface surface",
    "sparsem.measure.hull": "convex_voxels convex_voxels_of_each slice_corners",
    "sparsem.measure.shape": "shape_columns shapes",
    "sparsem.measure.glcm": "CoOccurrence co_occurrence co_occurrence_matrix offsets_of",
    "sparsem.measure.size_zones": "SizeZones size_zones zones",
    "sparsem.measure.pattern_spectrum": "Growth SpectrumMoments growth pattern_spectrum spectrum_moments",
    "sparsem.measure.texture": "GreyScale TextureScale quantised texture_of",
    "sparsem.measure.nucleolus": "filled proximity_to_membrane",
    "sparsem.measure.distances": "depth_within distance_to half_edge nearest",
    "sparsem.measure.protrusions": "Protrusion body_of protrusions",
    "sparsem.measure.dictionary": "Column about dictionary_page dictionary_page_rows dictionary_table features",
    "sparsem.measure.outline": "outline_columns",
    "sparsem.measure.settings": "MeasureSettings results_of",
    "sparsem.measure.objects": "Joined ObjectSettings first_voxels joined numbered_objects parts_of touching",
    "sparsem.measure.crops": "Piece factors_of groups level_nearest level_of_even_voxels level_within piece_around",
    "sparsem.measure.passes": ("Hulls Sums Surfaces batches_of_hulls halo holders hull_voxels summed sums surfaces surfaces_summed"),
    "sparsem.measure.pieces": "Cavities CellPiece Depths Textured cavities cell_measures depths textures",
    "sparsem.measure.cells": "distance_columns organelle_columns protrusion_columns protrusion_table unassigned",
    "sparsem.measure.records": "Objects Specks forget_unless_whole tables_of write_tables",
    "sparsem.measure.tables": "Measured measure",
    "sparsem.measure.remarks": "Remarks crossing gaps_of proposed_minimum remark_lines remarks",
    "sparsem.report.pieces": "AsMask ChosenSlices named_piece pieces_of",
    "sparsem.report.mesh": "Mesh mesh_of simplified with_volumes",
    "sparsem.report.encode": "cell_colour cells_picture colour_picture grey_picture mask_picture packed_mesh text_uri",
    "sparsem.report.layers": "Layer layers_of legend",
    "sparsem.report.solids": "Cut Solid solids_of whole_box",
    "sparsem.report.scene": "scene",
    "sparsem.report.quality_plots": "along_z before_and_after boxes_by_group correlation_matrices",
    "sparsem.report.comparison": "comparison_page figures",
    "sparsem.protocols": "Comparison compare_protocols",
    "sparsem.report.warnings": "Notice dice_of notices",
    "sparsem.report.view": "Plot View",
    "sparsem.report.charts": "plots",
    "sparsem.report.render": "RenderSettings render with_object",
    "sparsem.report.export": "ExportSettings export neuroglancer_state viewers",
    "sparsem.boxes": "Boxes alike_pairs areas boxes_of_labels clipped overlap_of_union shared sizes together",
    "sparsem.box_tables": (
        "Kept about_of annotated_names found_by found_names masks_outdated picture_names read_annotated read_found "
        "refuse_other_boxes scores_outdated write_annotated write_found"
    ),
    "sparsem.score.boxes": "BoxScores Compared Counts Match box_scores confusion counts matched",
    "sparsem.detect.weights": "hash_of_weights load_but read_weights",
    "sparsem.detect.detector": "Answer Detector Target grey_as_colour",
    "sparsem.detect.retinanet": "RetinaNet SmallRetinaNet",
    "sparsem.detect.deformable_detr": "DeformableDetr SmallDeformableDetr",
    "sparsem.detect.networks": "begin_with build detector_class",
    "sparsem.detect.recipe": "DetectorRecipe load_detector read_detector save_detector",
    "sparsem.detect.slicing": "Found Slicing exact merged starts",
    "sparsem.detect.inference": ("Levels found_in_picture found_in_tiles levels_of merged_in_picture seen slicing_of window_of"),
    "sparsem.detect.settings": "DetectSettings DetectTrainSettings",
    "sparsem.detect.box_file": "BoxFile FileBox LostBox hull_of stem_of",
    "sparsem.detect.numbers": "decimal_of id_of is_missing number_of real_of whole_of",
    "sparsem.detect.tables": "read_csv read_records records_of separator_of text_of",
    "sparsem.detect.coco": "read_json",
    "sparsem.detect.yolo": "read_yolo",
    "sparsem.detect.formats": "read_boxes",
    "sparsem.detect.image_slices": "SliceOfImage slices_of_images",
    "sparsem.detect.writing": "write_boxes",
    "sparsem.detect.bringing": "BoxesSettings Brought export_boxes import_boxes",
    "sparsem.detect.splitting": "Place Role chosen split",
    "sparsem.detect.tiles": "DetectionBatch DetectionSampler LearningPicture surviving turned",
    "sparsem.detect.calibration": "calibrated counting_from right_or_not",
    "sparsem.detect.train": "Job job_of train_detector",
    "sparsem.detect.predict": "Piece find_boxes",
    "sparsem.detect.outline": "mask_in_box pixels_of",
    "sparsem.detect.sam": "Sam load_sam",
    "sparsem.detect.masks": "Masked MasksSettings View masks paint views_of",
    "sparsem.detect.constraints": "Some Verdict constrain_boxes in_nucleus judged release_boxes ruled",
    "sparsem.detect.score": "DetectScoreSettings Judged JudgedBoxes can_be_scored score_boxes",
    "sparsem.detect.summary": "SummarySettings read_metadata summary",
    "sparsem.detect.whole": "DetectStep detect",
    "sparsem.report.plots": (
        "DiceCurve Strip as_svg counted_and_annotated dice_curves drift_curves figure_of networks organelles_per_cell plain "
        "precision_and_recall spectra strips"
    ),
    "sparsem.report.boxes": "BoxLayer box_layers_of box_plots edges_of legend_of_boxes",
    "sparsem.report.slices": "level_of_width scale_bar slice_pictures",
    "sparsem.report.page": "Report ReportSettings report",
    "sparsem.study": ("StudyResult demo run"),
    "sparsem.study_settings": (
        "AnnotateStep ExportStep ImportStep RenderStep ReportStep ScoreStep StudySettings TrainStep read_study separation_of structures_of"
    ),
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_pinned_and_documented(module: str) -> None:
    found = importlib.import_module(module)
    public = {
        name: value
        for name, value in vars(found).items()
        if not name.startswith("_") and inspect.getmodule(value) is found and (inspect.isclass(value) or inspect.isfunction(value))
    }
    assert sorted(public) == sorted(PUBLIC[module].split())
    for name, value in public.items():
        assert (value.__doc__ or "").strip(), f"{module}.{name} has no docstring"
        if inspect.isclass(value):
            methods = [one for key, one in vars(value).items() if inspect.isfunction(one) and not key.startswith("_")]
            undocumented = [one.__name__ for one in methods if not one.__doc__ and value.__name__ not in ("Stack",)]
            assert not undocumented, f"{module}.{name}: {undocumented}"


def test_every_setting_explains_itself() -> None:
    for info in pkgutil.walk_packages([str(SOURCE)], "sparsem."):
        if info.name != "sparsem.__main__":
            importlib.import_module(info.name)
    models, found = [Settings], []
    while models:
        model = models.pop()
        models += model.__subclasses__()
        found += [(model.__name__, name, field.description) for name, field in model.model_fields.items()]
    assert len(found) > 40
    assert not [(model, name) for model, name, description in found if not description]


def test_layers_are_listed_once() -> None:
    assert len(set(ORDER)) == len(ORDER)
    assert all(first != second for first, second in pairwise(ORDER))


def test_everything_that_is_imported_is_a_dependency() -> None:
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    everyone, denoise = (
        {re.split(r"[<>=\[]", one)[0].replace("-", "_").lower() for one in names}
        for names in (project["dependencies"], project["optional-dependencies"]["denoise"])
    )
    packages = {
        "cv2": "opencv_python_headless",
        "cc3d": "connected_components_3d",
        "skimage": "scikit_image",
        "PIL": "pillow",
        "nrrd": "pynrrd",
        "yaml": "pyyaml",
    }
    for name, path in modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        foreign = {one.split(".")[0] for one in imported} - {"sparsem", *sys.stdlib_module_names}
        declared = everyone | (denoise if name == "sparsem.prepare.noise2void" else set())
        missing = {packages.get(one, one).lower() for one in foreign} - declared - {"pydantic_core"}  # which comes with pydantic
        assert not missing, f"{name} imports {missing}"
