"""Two scripts for QuPath: one writes the outlines and the manifest for tlskit, one brings predictions and maps back."""

from __future__ import annotations

import json
from pathlib import Path

from tlskit.files import write_text

__all__ = ["EXPORT_NAME", "IMPORT_NAME", "write_scripts"]

EXPORT_NAME = "export_for_tlskit.groovy"
IMPORT_NAME = "import_from_tlskit.groovy"

#: Both scripts must give an image the same slide_id.
_NAMING = r"""// An image's slide_id: its name without suffix, safe as a file's name everywhere, and used once
def used = [] as Set
def idOf = { entry ->
    def name = entry.getImageName().replaceAll(/\.[A-Za-z0-9]{2,5}$/, "")
    name = name.replaceAll(/[^A-Za-z0-9._ -]/, "_").replaceAll(/^[. ]+|[. ]+$/, "")
    def unique = name
    for (int n = 2; !used.add(unique.toLowerCase()); n++)
        unique = name + "_" + n
    return unique
}
"""

_EXPORT = r"""/*
 * Export for tlskit (QuPath 0.4 to 0.6).
 *
 * Writes, for the open project, one GeoJSON of annotations per image and a manifest.csv that tlskit reads as it is.
 * Automate > Script editor > open this file > Run. Not "Run for project": it goes through the images itself.
 * Save the open image first (Ctrl+S): what is not saved is not exported.
 *
 * Patient and cancer type are taken from the project's metadata (right-click an image > Edit metadata > keys
 * "patient_id" and "cancer_type"). Where they are missing the cells stay empty, and tlskit says which.
 */
import qupath.lib.io.PathIO
import qupath.lib.io.PathIO.GeoJsonExportOptions
import qupath.lib.common.GeneralTools

// ---- What you may change -------------------------------------------------------------------------------------------
def folder = ""                 // where to write; empty: the folder "tlskit" inside the project's folder
def classes = []                // classes to export, such as [@TARGET@]; []: all
def onlyAnnotated = false       // true: leave out images that were never opened and saved in QuPath

// ---- What it does --------------------------------------------------------------------------------------------------
def project = getProject()
if (project == null) {
    println "Open a project first."
    return
}
def out = folder ? new File(folder) : new File(project.getPath().toFile().getParentFile(), "tlskit")
out.mkdirs()

@NAMING@// A cell of a CSV
def cell = { text -> '"' + (text ?: "").toString().replace('"', '""') + '"' }

def rows = ["slide_id,patient_id,cancer_type,slide_path,annotation_path"]
for (entry in project.getImageList()) {
    // Maps that were brought in by the other script are not slides
    if (entry.getImageName().startsWith("tlskit map "))
        continue
    // An image that was never saved has no outlines because nobody has looked, not because there are none:
    // its annotation_path stays empty, and tlskit neither trains nor scores on it.
    def looked = entry.hasImageData()
    def slideId = idOf(entry)
    if (!looked && onlyAnnotated)
        continue
    def annotationPath = ""
    if (looked) {
        def outlines = entry.readHierarchy().getAnnotationObjects().findAll {
            classes.isEmpty() || classes.contains(it.getPathClass()?.toString())
        }
        annotationPath = slideId + ".geojson"
        PathIO.exportObjectsAsGeoJSON(new File(out, annotationPath), outlines,
            GeoJsonExportOptions.FEATURE_COLLECTION, GeoJsonExportOptions.EXCLUDE_MEASUREMENTS)
        println slideId + ": " + outlines.size() + " annotations"
    } else {
        println slideId + ": never saved in QuPath, exported without outlines"
    }
    // The keys of the metadata; the method was renamed in QuPath 0.6
    def metadata = entry.metaClass.respondsTo(entry, "getMetadata") ? entry.getMetadata() : entry.getMetadataMap()
    def uri = entry.getURIs().find { it != null }
    def slidePath = uri == null ? "" : GeneralTools.toPath(uri)?.toString() ?: ""
    rows << [slideId, metadata["patient_id"], metadata["cancer_type"], slidePath.replace("\\", "/"), annotationPath]
        .collect(cell).join(",")
}
new File(out, "manifest.csv").setText(rows.join("\n") + "\n", "UTF-8")
println "Wrote " + (rows.size() - 1) + " slides: " + new File(out, "manifest.csv")
println "Next: tlskit check " + new File(out, "manifest.csv")
"""

_IMPORT = r"""/*
 * Import from tlskit (QuPath 0.4 to 0.6).
 *
 * Adds the outlines that a model found to the images of the open project, as annotations of a class of their own, and
 * adds the probability maps as images. Slides are matched by name: slide_id is the image's name without its suffix.
 * Automate > Script editor > open this file > set "arm" > Run. Not "Run for project". Running it again replaces
 * what it brought in before; what you have drawn is never touched.
 */
import java.awt.image.BufferedImage
import qupath.lib.common.ColorTools
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServerProvider
import qupath.lib.io.PathIO

// ---- What you may change -------------------------------------------------------------------------------------------
def arm = "@ARM@"               // one magnification's folder of a run, such as ".../outputs/demo/4x"
def className = ""              // class of the outlines; empty: @TARGET@ and the folder's name, such as @EXAMPLE@
def outlines = true             // bring in the outlines
def maps = true                 // bring in the probability maps (0 to 255 for 0 to 1)

// ---- What it does --------------------------------------------------------------------------------------------------
def project = getProject()
if (project == null) {
    println "Open a project first."
    return
}
def folder = new File(arm)
if (!folder.isDirectory()) {
    println "There is no folder " + folder + ": set \"arm\" at the top of this script."
    return
}
def predicted = getPathClass(className ?: @TARGET@ + " " + folder.getName(), ColorTools.packRGB(255, 140, 0))
@NAMING@def present = project.getImageList().collect { it.getImageName() } as Set

int done = 0
for (entry in new ArrayList(project.getImageList())) {
    if (entry.getImageName().startsWith("tlskit map "))
        continue
    def slideId = idOf(entry)
    def file = new File(folder, "geojson/" + slideId + ".geojson")
    if (outlines && file.isFile()) {
        def imageData = entry.readImageData()
        def hierarchy = imageData.getHierarchy()
        hierarchy.removeObjects(hierarchy.getAnnotationObjects().findAll { it.getPathClass() == predicted }, true)
        def objects = PathIO.readObjects(file)
        objects.each { it.setPathClass(predicted) }
        hierarchy.addObjects(objects)
        entry.saveImageData(imageData)
        println slideId + ": " + objects.size() + " outlines"
        done++
    }
    def map = new File(folder, "work/maps/" + slideId + ".tif")
    def mapName = "tlskit map " + slideId + " " + folder.getName()
    if (maps && map.isFile() && !present.contains(mapName)) {
        def support = ImageServerProvider.getPreferredUriImageSupport(BufferedImage.class, map.toURI().toString())
        def mapEntry = project.addImage(support.getBuilders().get(0))
        mapEntry.setImageName(mapName)
        def mapData = mapEntry.readImageData()
        mapData.setImageType(ImageData.ImageType.OTHER)
        mapEntry.saveImageData(mapData)
        println slideId + ": probability map"
        done++
    }
}
project.syncChanges()
getQuPath()?.refreshProject()
println(done == 0 ? "Nothing matched: are the images named as the manifest's slide_id?" : "Done. Reopen an open image.")
"""


def write_scripts(
    folder: str | Path = ".", *, target_class: str = "TLS", arm: str | Path = "outputs/demo/4x"
) -> list[Path]:
    """Write the two Groovy scripts.

    Parameters
    ----------
    folder
        Where to; made if it is not there.
    target_class
        Named in the scripts' examples, and in the class of what is brought in: predictions get a class of their own
        (``TLS 4x``), so that they never mix with what a person drew.
    arm
        Folder of a run's magnification whose results are to be brought in; can be changed in the script.

    Returns
    -------
    list of Path
        Of the export script and the import script.
    """
    folder = Path(folder)
    values = {
        "@NAMING@": _NAMING,
        "@TARGET@": _quoted(target_class),
        "@EXAMPLE@": _quoted(f"{target_class} {Path(arm).name}"),
        '"@ARM@"': _quoted(Path(arm).absolute().as_posix()),
    }
    written = []
    for name, text in ((EXPORT_NAME, _EXPORT), (IMPORT_NAME, _IMPORT)):
        for key, value in values.items():
            text = text.replace(key, value)
        written.append(write_text(folder / name, text))
    return written


def _quoted(text: str) -> str:
    """A Groovy string; a dollar sign would begin an expression in it."""
    return json.dumps(text, ensure_ascii=False).replace("$", "\\$")
