/*
 * Export for tlskit (QuPath 0.3.2 to 0.7).
 *
 * Writes, for the open project, one GeoJSON of annotations per image and a manifest.csv that tlskit reads as it is.
 * Automate > Script editor > open this file > Run. Not "Run for project": it goes through the images itself.
 * Save the open image first (Ctrl+S): what is not saved is not exported.
 *
 * Patient and cancer type are taken from the project's metadata (right-click an image > Edit metadata > keys
 * "patient_id" and "cancer_type"). Where they are missing the cells stay empty, and tlskit says which.
 *
 * The column "reviewed" says what the outlines of a slide are: drawn (by a person), corrected (predictions were brought
 * in, and a person has drawn or reclassified since), predicted (nobody has touched what was brought in: no outlines are
 * exported) or unseen (never saved in QuPath: none either). Predicted outlines are never exported: those that are right
 * become truth when a person gives them the target's class.
 */
import qupath.lib.common.GeneralTools
import qupath.lib.io.PathIO
import qupath.lib.io.PathIO.GeoJsonExportOptions

// ---- What you may change -------------------------------------------------------------------------------------------
def folder = ""                 // where to write; empty: the folder "tlskit" inside the project's folder
def classes = []                // classes to export, such as [@TARGET@]; []: all but predictions
def onlyAnnotated = false       // true: leave out images without outlines of a person

// ---- What it does --------------------------------------------------------------------------------------------------
def project = getProject()
if (project == null) {
    println "Open a project first."
    return
}
def out = folder ? new File(folder) : new File(project.getPath().toFile().getParentFile(), "tlskit")
out.mkdirs()

@COMMON@
// um/px that a person has set in QuPath, where it is not the file's own; nothing where it is
def correctedMpp = { entry, slideId ->
    def server = null
    try {
        server = entry.getServerBuilder().build()
        def now = server.getMetadata().getPixelCalibration()
        def own = server.getOriginalMetadata().getPixelCalibration()
        double x = now.getPixelWidthMicrons(), y = now.getPixelHeightMicrons()
        if (Double.isNaN(x) || Double.isNaN(y) || (x == own.getPixelWidthMicrons() && y == own.getPixelHeightMicrons()))
            return ""
        if (Math.abs(x - y) > 0.05 * Math.max(x, y)) {
            println slideId + ": WARNING: " + x + " um/px across and " + y + " down; no mpp_override is written"
            return ""
        }
        println slideId + ": pixel size set in QuPath, mpp_override " + (x + y) / 2
        return (x + y) / 2
    } catch (Throwable error) {
        println slideId + ": WARNING: cannot be opened, so its pixel size is not checked (" + error + ")"
        return ""
    } finally {
        server?.close()
    }
}

// A cell of a CSV
def cell = { text -> '"' + (text == null ? "" : text).toString().replace('"', '""') + '"' }

def rows = ["slide_id,patient_id,cancer_type,slide_path,annotation_path,mpp_override,outline_origin,reviewed"]
def counts = [:].withDefault { 0 }
for (entry in new ArrayList(project.getImageList())) {
    // Maps that were brought in by the other script are not slides
    if (entry.getImageName().startsWith("tlskit map "))
        continue
    def slideId = idOf(entry)
    def why = changed(entry)
    if (why != null) {
        println slideId + ": LEFT OUT: it " + why + ". Draw on the plain image, or write this one to a file of its own."
        counts["left out"]++
        continue
    }
    // An image that was never saved has no outlines because nobody has looked, not because there are none:
    // its annotation_path stays empty, and tlskit neither trains nor scores on it.
    def reviewed = "unseen", annotationPath = "", outlines = []
    if (entry.hasImageData()) {
        try {
            def annotations = entry.readHierarchy().getAnnotationObjects()
            def own = annotations.findAll { !isPredicted(it) }
            def brought = entry.getMetadataValue(BROUGHT) != null
            if (own.isEmpty() && entry.getMetadataValue(UNTOUCHED) != null)
                reviewed = "predicted"
            else
                reviewed = brought && entry.getMetadataValue(BEFORE) != drawnIn(annotations) ? "corrected" : "drawn"
            outlines = own.findAll { classes.isEmpty() || classes.contains(it.getPathClass()?.toString()) }
            if (annotations.size() > own.size())
                println slideId + ": " + (annotations.size() - own.size()) + " predicted outlines are not exported"
        } catch (Throwable error) {
            println slideId + ": LEFT OUT: what is saved of it cannot be read (" + error + ")"
            counts["left out"]++
            continue
        }
    }
    if (reviewed == "predicted")
        println slideId + ": nobody has touched its predictions; exported without outlines. If you have looked through " +
            "them and there is nothing, remove the key \"" + UNTOUCHED + "\" from its metadata."
    else if (reviewed == "unseen")
        println slideId + ": never saved in QuPath, exported without outlines"
    def looked = reviewed in ["drawn", "corrected"]
    if (!looked && onlyAnnotated)
        continue
    if (looked) {
        annotationPath = slideId + ".geojson"
        PathIO.exportObjectsAsGeoJSON(new File(out, annotationPath), outlines,
            GeoJsonExportOptions.FEATURE_COLLECTION, GeoJsonExportOptions.EXCLUDE_MEASUREMENTS)
        println slideId + ": " + outlines.size() + " annotations, " + reviewed
    } else {
        // Of an earlier export, when it still had some
        new File(out, slideId + ".geojson").delete()
    }
    counts[reviewed]++
    def metadata = firstOf(entry, ["getMetadata", "getMetadataMap"])
    def uri = firstOf(entry, ["getURIs", "getUris"]).find { it != null }
    def slidePath = uri == null ? "" : GeneralTools.toPath(uri)?.toString() ?: ""
    if (!slidePath)
        println slideId + ": WARNING: it is no file on this computer; fill its slide_path"
    // QuPath counts pixels from the corner of what was scanned, unless the image was added with --no-crop
    def origin = argumentsOf(entry).contains("--no-crop") ? "slide" : ""
    rows << [slideId, metadata["patient_id"], metadata["cancer_type"], slidePath.replace("\\", "/"), annotationPath,
        correctedMpp(entry, slideId), origin, reviewed].collect(cell).join(",")
}
new File(out, "manifest.csv").setText(rows.join("\n") + "\n", "UTF-8")
println "Wrote " + (rows.size() - 1) + " slides (" + counts.collect { it.value + " " + it.key }.join(", ") + "): " +
    new File(out, "manifest.csv")
println "Next: tlskit check " + new File(out, "manifest.csv")
