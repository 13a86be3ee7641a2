/*
 * Import from tlskit (QuPath 0.3.2 to 0.7).
 *
 * Adds the outlines that a model found to the images of the open project, as annotations of a class of their own
 * (such as "@EXAMPLE@"), and adds the probability maps as images. Slides are matched by name: slide_id is the image's
 * name without its suffix. Automate > Script editor > open this file > set "results" > Run. Not "Run for project".
 *
 * Running it again replaces what it brought in before; what you have drawn, reclassified or reshaped is never touched.
 * To correct predictions: give those that are right the target's class, delete the others, draw what is missing, save.
 * An image that gets no outline is not saved; one that only this script has saved is marked in its metadata, and the
 * export takes it for unreviewed until you have drawn or reclassified something.
 */
import java.awt.image.BufferedImage
import qupath.lib.common.ColorTools
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServerProvider
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO

// ---- What you may change -------------------------------------------------------------------------------------------
def results = "@ARM@"           // an arm of a run (".../outputs/demo/4x"), or the folder that `tlskit predict` wrote
def outlines = true             // bring in the outlines
def maps = true                 // bring in the probability maps (0 to 255 for 0 to 1)

// ---- What it does --------------------------------------------------------------------------------------------------
def project = getProject()
if (project == null) {
    println "Open a project first."
    return
}
@COMMON@
@FOLDERS@
if (!found)
    return
def geojsons = found.geojsons, mapFiles = found.maps
def className = { name -> name?.toLowerCase()?.startsWith("predicted ") ? name : "predicted " + @TARGET@ + " " + found.name }

// Images that are open and changed: what is on the screen is not what is saved
def unsaved = [] as Set
def gui = getQuPath()
if (gui != null)
    for (viewer in firstOf(gui, ["getAllViewers", "getViewers"])) {
        def data = viewer.getImageData()
        if (data != null && data.isChanged())
            unsaved << project.getEntry(data)?.getID()
    }

// A predicted outline as it was brought in, to know later whether a person has reshaped it
def shapeOf = { roi -> ["tlskit x px": roi.getCentroidX(), "tlskit y px": roi.getCentroidY(), "tlskit area px2": roi.getArea()] }
def reshaped = { object ->
    def list = object.getMeasurementList()
    return shapeOf(object.getROI()).any { key, value ->
        double before = firstOf(list, ["get", "getMeasurementValue"], key)
        Double.isNaN(before) || Math.abs(before - value) > 0.5 + 1e-4 * Math.abs(value)
    }
}

@BUILDER@

// Puts the outlines of a file into an image; returns what there is to say
def bringIn = { entry, file ->
    def text = file.getText("UTF-8")
    def about = GsonTools.getInstance().fromJson(text, Map.class)["tlskit"] ?: [:]
    def objects = PathIO.readObjects(file)
    def untouched = !entry.hasImageData()
    if (objects.isEmpty() && untouched)
        return "no outline; not saved"
    def imageData = entry.readImageData()
    def server = imageData.getServer()
    try {
        def bounds = (about.bounds_px0 ?: [0, 0, 0, 0]).collect { it as double }
        def whole = argumentsOf(entry).contains("--no-crop")
        if (about.size_px0) {
            def size = whole || bounds[2] == 0 ? about.size_px0 : bounds[2..3]
            if (Math.abs(server.getWidth() - size[0]) > 1 || Math.abs(server.getHeight() - size[1]) > 1)
                return "LEFT OUT: the outlines are of a slide of " + size.collect { it as int }.join(" x ") +
                    " px, the image has " + server.getWidth() + " x " + server.getHeight()
        }
        // The file counts from the scanned part's corner or the slide's, the image from the one or the other
        int shift = (whole ? 1 : 0) - (about.outline_origin == "slide" ? 1 : 0)
        def hierarchy = imageData.getHierarchy()
        def before = hierarchy.getAnnotationObjects().findAll { isPredicted(it) }
        def names = (objects.collect { it.getPathClass()?.toString() } ?: [about.class_name]).collect(className) as Set
        def old = before.findAll { names.contains(it.getPathClass().toString()) }
        def kept = old.findAll { reshaped(it) }
        def drawn = drawnIn(hierarchy.getAnnotationObjects())
        old.removeAll(kept)
        if (objects.isEmpty() && old.isEmpty())
            return "no outline; not saved"
        hierarchy.removeObjects(old, true)
        objects.each { object ->
            if (shift != 0)
                object.setROI(object.getROI().translate(shift * bounds[0], shift * bounds[1]))
            def name = className(object.getPathClass()?.toString())
            object.setPathClass(getPathClass(name, ColorTools.packRGB(255, 140, 0)))
            shapeOf(object.getROI()).each { key, value -> firstOf(object.getMeasurementList(), ["put", "putMeasurement"], key, value as double) }
        }
        firstOf(hierarchy, ["addObjects", "addPathObjects"], objects)
        entry.saveImageData(imageData)
        if (untouched)
            entry.putMetadataValue(UNTOUCHED, "yes")
        if (entry.getMetadataValue(BROUGHT) == null)
            entry.putMetadataValue(BEFORE, drawn)
        entry.putMetadataValue(BROUGHT, objects.size() + " of " + names.join(", "))
        def more = kept.isEmpty() ? "" : "; " + kept.size() + " that you had reshaped are kept beside them"
        return objects.size() + " outlines" + more
    } finally {
        server?.close()
    }
}

def present = project.getImageList().collect { it.getImageName() } as Set
def matched = [] as Set, without = []
int done = 0, failed = 0
for (entry in new ArrayList(project.getImageList())) {
    if (entry.getImageName().startsWith("tlskit map "))
        continue
    def slideId = idOf(entry)
    def file = geojsons[slideId], map = mapFiles[slideId]
    if (file == null && map == null) {
        without << slideId
        continue
    }
    matched << slideId
    try {
        def why = changed(entry)
        if (why != null) {
            println slideId + ": LEFT OUT: it " + why
            continue
        }
        if (outlines && file != null) {
            if (unsaved.contains(entry.getID()))
                println slideId + ": LEFT OUT: it is open and not saved. Save it, and run this again."
            else {
                println slideId + ": " + bringIn(entry, file)
                done++
            }
        }
        def mapName = "tlskit map " + slideId + " " + found.name
        if (maps && map != null && !present.contains(mapName)) {
            def mapEntry = project.addImage(builderOf(map))
            mapEntry.setImageName(mapName)
            def mapData = mapEntry.readImageData()
            mapData.setImageType(ImageData.ImageType.OTHER)
            mapEntry.saveImageData(mapData)
            mapData.getServer()?.close()
            println slideId + ": probability map"
            done++
        }
    } catch (Throwable error) {
        failed++
        println slideId + ": FAILED: " + error
    }
}
project.syncChanges()
gui?.refreshProject()
def lost = (geojsons.keySet() + mapFiles.keySet()) - matched
if (!without.isEmpty())
    println "Without results: " + without.join(", ")
if (!lost.isEmpty())
    println "Results without an image of that name: " + lost.sort().join(", ")
if (failed > 0)
    println failed + " images failed; the others are done."
println(matched.isEmpty() ? "Nothing matched: are the images named as the manifest's slide_id?" : "Done. Reopen an open image.")
